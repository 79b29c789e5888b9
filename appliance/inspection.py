"""Whether a model would run here, from its headers alone: what the converters say of it, and what fits the memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.choice import KV_BYTES, preferred
from appliance.config import Settings
from appliance.conversion import run_inspection
from appliance.conversion_facts import Inspection, RecipeCost
from appliance.errors import ConversionFailed, ModelFileError
from appliance.memory import total_budget_bytes, without_cache_bytes
from appliance.options import DEFAULT_CONTEXT_TOKENS, context_tokens
from appliance.store.footprint import Footprint


@dataclass(frozen=True, slots=True)
class Fit:
    """What a recipe leaves room for: the memory without KV cache, that with one context of `num_ctx`, and contexts.

    `contexts` are tokens for each of so many requests at a time, at most what the model was trained for; 0 where none
    fits.
    """

    loaded_bytes: int
    serving_bytes: int
    contexts: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a model comes to on this machine. `recipe` is what it would be converted with, and `reason` why."""

    inspection: Inspection
    budget_bytes: int
    context_tokens: int
    kv: str
    recipe: str
    reason: str
    fits: Mapping[str, Fit]

    @property
    def fits_here(self) -> bool:
        """Whether the chosen recipe can serve one request."""
        return self.recipe in self.fits and self.fits[self.recipe].serving_bytes <= self.budget_bytes


async def inspect(settings: Settings, source: Path, adapter: Path | None = None) -> Verdict:
    """Inspect a model's file or folder, in a process of its own.

    Raises ModelFileError for what is no model at all, ConversionFailed when the process breaks down.
    """
    return judge(settings, await run_inspection(source, adapter))


async def advice(settings: Settings, source: Path) -> str:
    """What whoever fetches this GGUF file should know; "" if it will run. The file may end after its header."""
    try:
        verdict = await inspect(settings, source)
    except ModelFileError as error:
        return f"warning: this model can be kept but not run here: {error}"
    except ConversionFailed:  # which is logged
        return ""
    if not verdict.recipe:
        return f"warning: this model can be kept but not run here: {verdict.reason}"
    if not verdict.fits_here:
        needed = verdict.fits[verdict.recipe].serving_bytes
        return (
            f"warning: this model needs {needed / 2**30:.1f} GiB of memory here, "
            f"and models may take {verdict.budget_bytes / 2**30:.1f} GiB"
        )
    return ""


def judge(settings: Settings, found: Inspection) -> Verdict:
    """What fits the memory that models may take."""
    budget = total_budget_bytes(settings)
    kv = settings.kv_cache_type
    trained = found.context_tokens or DEFAULT_CONTEXT_TOKENS
    context = context_tokens(None, settings.context_length or DEFAULT_CONTEXT_TOKENS, trained)
    token = found.kv_values * KV_BYTES[kv]
    usable = {name: cost for name, cost in found.recipes.items() if not cost.refused}
    recipe, reason = _choice(settings, found, token * context)
    slots = sorted({1, settings.num_parallel})
    return Verdict(
        found,
        budget,
        context,
        kv,
        recipe,
        reason,
        {name: _fit(cost, token, context, trained, budget, slots) for name, cost in usable.items()},
    )


def _choice(settings: Settings, found: Inspection, cache: int) -> tuple[str, str]:
    """The recipe that the settings come to, and why; "" and the reason where it would be refused."""
    if found.refused:
        return "", found.refused
    weights = {name: cost.disk_bytes for name, cost in found.recipes.items()}
    encodes = found.kind != "decoder"
    footprint = Footprint(found.quantised, weights, found.kv_values, found.context_tokens, encodes)
    recipe, reason = preferred(settings, {}, footprint, cache, {})
    refused = found.recipes[recipe].refused
    return ("", refused) if refused else (recipe, reason)


def _fit(cost: RecipeCost, token: int, context: int, trained: int, budget: int, slots: list[int]) -> Fit:
    """`token` are the bytes that one adds to the KV cache."""
    loaded = without_cache_bytes(cost.disk_bytes)
    free = max(budget - loaded, 0)
    most = {count: min(trained, free // count // token) if token else trained * (free > 0) for count in slots}
    return Fit(loaded, loaded + token * context, most)
