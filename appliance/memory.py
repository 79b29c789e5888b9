"""How much memory models may take, and how much one takes."""

from __future__ import annotations

import psutil

from appliance.config import Settings

MEMORY_SHARE = 0.8  # of the machine's memory, when no budget is set
OVERHEAD_BYTES = 100 * 2**20  # session, tokenizer, buffers: measured on SmolLM2
WEIGHTS_FACTOR = 1.2  # kernels keep repacked copies of some weights


def without_cache_bytes(bundle_bytes: int) -> int:
    """What a loaded model takes besides its KV cache, given the size of its bundle's files."""
    return int(bundle_bytes * WEIGHTS_FACTOR) + OVERHEAD_BYTES


def total_budget_bytes(settings: Settings) -> int:
    """What all models together may take; does not change while the machine runs."""
    return settings.memory_budget_bytes or int(psutil.virtual_memory().total * MEMORY_SHARE)


def left_budget_bytes(settings: Settings, reserved_bytes: int) -> int:
    """What another model may take now, beside those that reserved so much."""
    if settings.memory_budget_bytes:
        return settings.memory_budget_bytes - reserved_bytes
    return int(psutil.virtual_memory().available * MEMORY_SHARE)
