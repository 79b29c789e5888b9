"""What each recipe costs the real model in likelihood, against its own weights in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from appliance.bundle import BATCH, MODEL, TOKENIZER, read_description
from tests import real_model
from tests.converters.running import Decoder
from tests.converters.test_real_model import DATA, WINDOW_TOKENS, mean_nll

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def windows(fp32_bundle: Path) -> list[list[int]]:
    text = (DATA / "english.txt").read_text(encoding="utf-8")
    ids = Tokenizer.from_file(str(fp32_bundle / TOKENIZER)).encode(text, add_special_tokens=False).ids
    return [ids[:WINDOW_TOKENS], ids[WINDOW_TOKENS : 2 * WINDOW_TOKENS]]


@pytest.fixture(scope="module")
def full(fp32_bundle: Path, windows: list[list[int]]) -> tuple[float, list[np.ndarray]]:
    """NLL and first choices of float32."""
    return measured(fp32_bundle, windows)


def measured(folder: Path, windows: list[list[int]], graph: str = MODEL) -> tuple[float, list[np.ndarray]]:
    """NLL per token in nats and the first choice after every token, all tokens through one graph."""
    decoder = Decoder(folder, capacity=WINDOW_TOKENS, threads=2, graph=graph)
    losses, choices = [], []
    for window in windows:
        logits = decoder.all_logits(window)
        losses.append(mean_nll([logits], [window]))
        choices.append(logits.argmax(axis=1))
    return float(np.mean(losses)), choices


@pytest.mark.parametrize(
    ("recipe", "kv", "graph", "nll", "top1"),
    [
        ("compact", "f32", MODEL, 0.005, 0.95),
        ("exact", "q8_0", MODEL, 0.02, 0.92),
        ("int8-rotated", "f32", BATCH, 0.03, 0.91),
        ("int8-rotated", "q8_0", BATCH, 0.04, 0.90),
    ],
)
def test_what_a_recipe_costs(
    windows: list[list[int]],
    full: tuple[float, list[np.ndarray]],
    recipe: str,
    kv: str,
    graph: str,
    nll: float,
    top1: float,
) -> None:
    folder = real_model.bundle_folder(recipe, kv)
    own, choices = measured(folder, windows, graph)
    same = float(np.mean([a == b for a, b in zip(choices, full[1], strict=True)]))
    print(f"{recipe} {kv}: NLL {own:.4f}, {own - full[0]:+.4f}, first choices {same:.4f}")
    assert abs(own - full[0]) <= nll
    assert same >= top1


def test_descriptions_tell_the_fidelity() -> None:
    """What the conversion measures on another text is of the same size."""
    for recipe, kv, nll in (("compact", "f32", 0.01), ("exact", "q8_0", 0.03), ("int8-rotated", "f32", 0.04)):
        fidelity = read_description(real_model.bundle_folder(recipe, kv)).report["fidelity"]
        assert fidelity["tokens"] > 900
        assert 2 < fidelity["source_nll"] < 4
        assert abs(fidelity["nll"] - fidelity["source_nll"]) < nll
        assert fidelity["top1"] > 0.88
