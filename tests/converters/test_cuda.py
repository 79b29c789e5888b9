"""Graphs for CUDA on a card, beside transformers in float32 and beside the CPU. Skipped where CUDA does not start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from appliance.bundle import read_description
from appliance.engine import providers
from appliance.engine.backend import Row
from appliance.engine.card import card_memory
from appliance.engine.ort import OrtBackend
from appliance.engine.providers import Provider
from converters.bundle import convert
from tests.converters.card import no_card
from tests.converters.oracle import CASES, PROMPT, Make
from tests.converters.running import HALF, relative_error, usual_error

ONE_EACH = ("llama-3", "mistral-window", "smollm3", "qwen2", "qwen3", "gemma2", "gemma3", "phi3-window", "granite")
IN_HOST_MEMORY = replace(providers.CUDA, device="cpu")  # the KV cache, as for DirectML

pytestmark = pytest.mark.skipif(bool(no_card()), reason=f"CUDA does not start here: {no_card()}")


def dealt(folder: Path, ids: list[int], sizes: list[int], provider: Provider) -> np.ndarray:
    """Logits [len(ids), vocabulary] of tokens that come so many at a time, in slot 1 of 2; slot 0 has others."""
    backend = OrtBackend(folder, read_description(folder), slots=2, provider=provider, threads=1)
    done, parts = 0, []
    for size in sizes:
        chunk = tuple(ids[done : done + size])
        rows = [Row(0, done, chunk[::-1]), Row(1, done, chunk, logits=len(chunk))]
        parts.append(backend.run(rows)[1].copy())
        done += size
    backend.close()
    return np.concatenate(parts)


SIZES = {"at once": [48], "in chunks": [5, 20, 2, 13, 8], "one by one": [1] * 48, "after a prompt": [PROMPT] + [1] * 8}


@pytest.mark.parametrize("name", [name for name in CASES if name != "phi3-long"])
def test_computes_what_transformers_computes(made: Make, tmp_path: Path, name: str) -> None:
    reference = made(name)
    convert(reference.gguf, tmp_path / "bundle", "fp32", target="cuda")
    for sizes in SIZES.values():
        assert usual_error(dealt(tmp_path / "bundle", reference.ids, sizes, providers.CUDA), reference.logits) < HALF


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_cache_in_host_memory(made: Make, tmp_path: Path, name: str) -> None:
    reference = made(name)
    convert(reference.gguf, tmp_path / "bundle", "fp32", target="cuda")
    logits = dealt(tmp_path / "bundle", reference.ids, SIZES["in chunks"], IN_HOST_MEMORY)
    assert relative_error(logits, reference.logits) < HALF


@pytest.mark.parametrize(("tensor_type", "recipe"), [("Q8_0", "exact"), ("Q4_1", "exact"), ("Q4_1", "compact")])
@pytest.mark.parametrize("name", ONE_EACH)
def test_quantised_weights(made: Make, tmp_path: Path, name: str, tensor_type: str, recipe: str) -> None:
    """No worse than on the CPU, which rounds activations to 8 bits."""
    reference = made(name, tensor_type)
    convert(reference.gguf, tmp_path / "bundle", recipe, target="cuda")
    sizes = SIZES["after a prompt"]
    mine, cpu = (dealt(tmp_path / "bundle", reference.ids, sizes, each) for each in (providers.CUDA, providers.CPU))
    assert relative_error(mine, reference.logits) < relative_error(cpu, reference.logits)


def test_the_driver_tells_what_is_free() -> None:
    card = card_memory()
    assert card
    assert 0 < card.free <= card.total


def test_a_token_each_of_three_slots_in_one_run(made: Make, tmp_path: Path) -> None:
    reference, pasts = made("gemma3"), (9, 30, 17)
    bundle = convert(reference.gguf, tmp_path / "bundle", "fp32", target="cuda")
    backend = OrtBackend(tmp_path / "bundle", bundle, slots=3, provider=providers.CUDA, threads=1)
    backend.run([Row(slot, 0, tuple(reference.ids[:past]), logits=0) for slot, past in enumerate(pasts)])
    for at in range(5):
        rows = [Row(slot, past + at, (reference.ids[past + at],)) for slot, past in enumerate(pasts)]
        for logits, past in zip(backend.run(rows), pasts, strict=True):
            assert relative_error(logits[0], reference.logits[past + at]) < HALF
    backend.close()
