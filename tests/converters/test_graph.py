"""The llama graph against numpy, however its tokens are dealt out over steps and rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.bundle import convert
from tests.converters import llama_reference
from tests.converters.running import Decoder
from tests.tiny_model import write_tiny_gguf

RNG = np.random.default_rng(1)
IDS = [int(token) for token in RNG.integers(0, 267, 24)]
Make = Callable[..., tuple[Path, Path]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(recipe: str = "fp32", **overrides: Any) -> tuple[Path, Path]:
        source, folder = tmp_path / "tiny.gguf", tmp_path / "bundle"
        write_tiny_gguf(source, **overrides)
        convert(source, folder, recipe)
        return source, folder

    return make


def vectors(layers: int, names: dict[str, int]) -> dict[str, np.ndarray]:
    return {
        f"blk.{layer}.{name}.bias": RNG.standard_normal(size).astype(np.float32) / 4
        for layer in range(layers)
        for name, size in names.items()
    }


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"tied": True},
        {"heads": 4, "kv_heads": 4},
        {"heads": 8, "kv_heads": 1, "layers": 1, "hidden": 128},
        {"tensor_type": "Q4_1"},
        {"tensor_type": "Q8_0", "tied": True},
        {"metadata": {"llama.rope.freq_base": 500000.0}},
        {"metadata": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}},
        {"metadata": {"llama.attention.scale": 0.2}},
        {"metadata": {"llama.rope.dimension_count": None}},
        {"tensors": {"rope_freqs.weight": np.geomspace(1, 32, 8, dtype=np.float32)}},
        {"tensors": vectors(2, {"attn_q": 64, "attn_k": 32, "attn_v": 32})},
        {"tensors": vectors(2, {"attn_v": 32, "attn_output": 64, "ffn_gate": 96, "ffn_up": 96, "ffn_down": 64})},
    ],
    ids=str,
)
def test_equals_the_reference(make: Make, overrides: dict[str, Any]) -> None:
    source, folder = make(**overrides)
    expected = llama_reference.logits(source, IDS)
    np.testing.assert_allclose(Decoder(folder).all_logits(IDS), expected, atol=2e-4)


def test_heads_may_be_wider_than_the_model(make: Make) -> None:
    wide = {"attn_q": (128, 64), "attn_k": (64, 64), "attn_v": (64, 64), "attn_output": (64, 128)}
    tensors = {
        f"blk.{layer}.{name}.weight": (RNG.standard_normal(shape) / 8).astype(np.float32)
        for layer in range(2)
        for name, shape in wide.items()
    }
    keys = {f"llama.{name}": 32 for name in ("attention.key_length", "attention.value_length", "rope.dimension_count")}
    source, folder = make(metadata=keys, tensors=tensors)
    expected = llama_reference.logits(source, IDS)
    np.testing.assert_allclose(Decoder(folder).all_logits(IDS), expected, atol=2e-4)


def close(actual: np.ndarray, expected: np.ndarray, recipe: str) -> None:
    """Equal up to float noise; `exact` rounds activations, where such noise can tip a value to the next step."""
    if recipe == "fp32":
        np.testing.assert_allclose(actual, expected, atol=2e-5)
    else:
        assert relative_error(actual, expected) < 0.03


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(((actual - expected) ** 2).mean() / (expected**2).mean()))


@pytest.mark.parametrize("recipe", ["fp32", "exact"])
class TestAnyDealing:
    """Prefill in one go is what every other way of feeding the same tokens must give."""

    def test_chunks(self, make: Make, recipe: str) -> None:
        _, folder = make(recipe)
        whole = Decoder(folder).all_logits(IDS)
        decoder, done = Decoder(folder), 0
        for size in (1, 7, 3, 13):
            part = decoder.step([IDS[done : done + size]], [done], [range(size)])[0]
            close(part, whole[done : done + size], recipe)
            done += size
        assert done == len(IDS)

    def test_one_token_at_a_time(self, make: Make, recipe: str) -> None:
        _, folder = make(recipe)
        whole = Decoder(folder).all_logits(IDS)
        decoder = Decoder(folder)
        for place, token in enumerate(IDS):
            close(decoder.step([[token]], [place], [[0]])[0, 0], whole[place], recipe)

    def test_ragged_rows_and_idle_rows(self, make: Make, recipe: str) -> None:
        _, folder = make(recipe)
        texts = [IDS, IDS[5:], IDS[::-1]]
        alone = [Decoder(folder).all_logits(text) for text in texts]
        decoder, done = Decoder(folder, rows=3), [0, 0, 0]
        for sizes in ((5, 1, 3), (0, 4, 1), (1, 0, 0), (1, 1, 1), (7, 0, 2)):
            parts = [text[at : at + size] for text, at, size in zip(texts, done, sizes, strict=True)]
            wanted = [[max(size - 1, 0)] for size in sizes]
            logits = decoder.step(parts, done, wanted)
            done = [at + size for at, size in zip(done, sizes, strict=True)]
            for row, size in enumerate(sizes):
                if size:
                    close(logits[row, 0], alone[row][done[row] - 1], recipe)

    def test_only_wanted_rows_are_computed(self, make: Make, recipe: str) -> None:
        _, folder = make(recipe)
        whole = Decoder(folder).all_logits(IDS)
        some = Decoder(folder).step([IDS], [0], [[20, 3, 3]])[0]
        close(some, whole[[20, 3, 3]], recipe)
        assert Decoder(folder).step([IDS], [0], [[]]).shape == (1, 0, whole.shape[1])


@pytest.mark.parametrize("tensor_type", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_exact_recipe_stays_close(make: Make, tensor_type: str) -> None:
    source, folder = make("exact", tensor_type=tensor_type, hidden=128, intermediate=192)
    expected = llama_reference.logits(source, IDS)
    assert relative_error(Decoder(folder).all_logits(IDS), expected) < 0.07


def test_sums_carry_the_minima_of_matrices(make: Make) -> None:
    source, folder = make("compact", tensor_type="Q4_1", hidden=128, intermediate=192)
    expected = llama_reference.logits(source, IDS)
    kinds = {node.op_type for node in load_graph(folder).graph}
    assert {"ReduceMean", "Concat"} <= kinds
    assert relative_error(Decoder(folder).all_logits(IDS), expected) < 0.07


def load_graph(folder: Path) -> Any:
    import onnx_ir

    return onnx_ir.load(folder / "model.onnx")


def test_few_nodes_a_layer(make: Make) -> None:
    """Every node costs microseconds of each decoded token."""
    _, folder = make("exact", layers=6)
    assert len(load_graph(folder).graph) <= 10 * 6 + 6


def test_tied_weights_are_on_disk_once(make: Make) -> None:
    _, folder = make("exact", tied=True)
    places: dict[str, int] = {}
    for value in load_graph(folder).graph.initializers.values():
        if "token_embd" in value.name:
            places[value.name] = value.const_value.offset
    assert places["token_embd.table"] == places["token_embd.weight"]
    assert places["token_embd.table.scales"] == places["token_embd.weight.scales"]
