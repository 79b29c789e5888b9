"""Rounding to 4 bits: never worse than from the least to the largest value, and kind to the columns that matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from tokenizers import Tokenizer

from appliance.bundle import MODEL, TOKENIZER
from converters import bars
from converters.bundle import convert
from converters.fidelity import calibration_tokens, importance
from converters.formats import Format, pack_grid, unpack
from converters.gguf_source import GGUFSource
from converters.graph import Graph
from converters.recipes import RECIPES, compact
from converters.recipes.compact import FourBits
from converters.rounding import grid
from converters.weights import WeightsFile
from tests.converters.test_formats import dequantised, multiplied, random_blocks
from tests.converters.test_real_model import DATA, WINDOW_TOKENS, mean_nll, window_logits
from tests.shuffled_model import write_shuffled
from tests.tiny_model import write_tiny_gguf

BLOCK = 32


def rounded(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    levels, step, low = grid(values.astype(np.float32), weights, BLOCK)
    assert ((levels >= 0) & (levels <= 15) & (levels == np.rint(levels))).all()
    result: np.ndarray = (levels * step[..., None] + low[..., None]).reshape(values.shape)
    return result


def plain_grid(values: np.ndarray, weights: np.ndarray | None, block: int) -> tuple[np.ndarray, ...]:
    """From the least to the largest value of each block."""
    blocks = values.reshape(len(values), -1, block)
    low = blocks.min(axis=-1)
    step = (blocks.max(axis=-1) - low) / 15
    return np.rint((blocks - low[..., None]) / step[..., None]), step, low


def plain(values: np.ndarray) -> np.ndarray:
    levels, step, low = plain_grid(values, None, BLOCK)
    result: np.ndarray = (levels * step[..., None] + low[..., None]).reshape(values.shape)
    return result


def block_errors(difference: np.ndarray, weights: np.ndarray | float = 1) -> np.ndarray:
    result: np.ndarray = (weights * difference**2).reshape(len(difference), -1, BLOCK).sum(axis=-1)
    return result


@pytest.mark.parametrize("kind", ["standard_normal", "standard_t", "laplace", "uniform"])
@pytest.mark.parametrize("weighted", [False, True])
def test_no_block_is_worse_than_plain_rounding(kind: str, weighted: bool) -> None:
    rng = np.random.default_rng(0)
    arguments = {"standard_t": {"df": 3}}.get(kind, {})
    values = getattr(rng, kind)(size=(300, 320), **arguments).astype(np.float32)
    weights = rng.lognormal(size=320).astype(np.float32) if weighted else None
    own = block_errors(rounded(values, weights) - values, weights if weighted else 1)
    other = block_errors(plain(values) - values, weights if weighted else 1)
    assert own.sum() < 0.9 * other.sum()
    assert (own <= 1.05 * other + 1e-6).mean() > 0.99


def test_what_lies_on_a_grid_stays() -> None:
    rng = np.random.default_rng(1)
    levels = rng.integers(0, 16, (64, 4, BLOCK))
    levels[..., 0], levels[..., 1] = 0, 15
    step, low = rng.uniform(0.01, 2, (64, 4, 1)), rng.uniform(-20, 20, (64, 4, 1))
    values = (levels * step + low).reshape(64, -1).astype(np.float32)
    np.testing.assert_allclose(rounded(values, rng.lognormal(size=128)), values, atol=1e-4)


def test_awkward_blocks() -> None:
    values = np.zeros((5, 64), np.float32)
    values[1] = 3.5
    values[2, 7] = -1000
    values[3] = 1e-30
    values[4, :32] = np.linspace(100, 101, 32)
    result = rounded(values)
    assert not result[0].any()
    np.testing.assert_allclose(result[[1, 2]], values[[1, 2]], rtol=1e-5, atol=1e-3)
    assert np.abs(result[3]).max() < 1e-20
    assert np.abs(result[4] - values[4]).max() < 1 / 15


def test_important_columns_keep_their_values() -> None:
    values = np.random.default_rng(2).standard_normal((200, 64)).astype(np.float32)
    weights = np.ones(64, np.float32)
    weights[[5, 40]] = 1000
    error, unweighted = (np.square(rounded(values, each) - values) for each in (weights, None))
    assert error[:, [5, 40]].mean() < 0.1 * unweighted[:, [5, 40]].mean()
    assert error.mean() < 2 * unweighted.mean()


def test_inputs_that_were_all_zero_weigh_the_same() -> None:
    values = np.random.default_rng(3).standard_normal((9, 64)).astype(np.float32)
    np.testing.assert_array_equal(rounded(values, np.zeros(64, np.float32)), rounded(values))


def test_packing_keeps_the_minimum() -> None:
    values = np.random.default_rng(4).standard_normal((50, 1024)).astype(np.float32) + 0.3
    form = Format(4, BLOCK, sums=True)
    stored = unpack(pack_grid(*grid(values, None, BLOCK)), form, 1024)
    assert np.abs(stored - rounded(values)).max() < 0.01


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16", "Q8_0"])
def test_full_precision_becomes_4_bits(tmp_path: Path, type_name: str) -> None:
    raw = random_blocks(type_name, 64, 512)
    expected = dequantised(raw, type_name)
    stored = multiplied(tmp_path, raw, type_name, np.eye(512, dtype=np.float32), "q4").T
    error = np.sqrt(((stored - expected) ** 2).mean() / (expected**2).mean())
    assert 0.02 < error < 0.11
    data = (tmp_path / "model.onnx.data").stat().st_size
    assert data < 6.5 / 8 * 64 * 512


@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_K", "Q6_K"])
@pytest.mark.parametrize("recipe", ["compact", "q4"])
def test_quantised_sources_are_not_rounded_to_4_bits(tmp_path: Path, type_name: str, recipe: str) -> None:
    raw = random_blocks(type_name, 48, 512)
    expected = dequantised(raw, type_name)
    stored = multiplied(tmp_path, raw, type_name, np.eye(512, dtype=np.float32), recipe).T
    assert np.sqrt(((stored - expected) ** 2).mean() / (expected**2).mean()) < 0.007


def test_rows_that_blocks_do_not_fill_keep_8_bits(tmp_path: Path) -> None:
    raw = random_blocks("F32", 16, 100)
    expected = dequantised(raw, "F32")
    stored = multiplied(tmp_path, raw, "F32", np.eye(100, dtype=np.float32), "q4").T
    assert np.abs(stored - expected).max() <= np.abs(expected).max() / 127 * 0.51


@pytest.mark.parametrize(("recipe", "bits"), [("exact", [8]), ("compact", [4, 8]), ("q4", [4])])
def test_4_bits_are_not_fused_with_more(tmp_path: Path, recipe: str, bits: list[int]) -> None:
    """Nor does the order of the columns change."""
    matrices = {"q": random_blocks("Q4_1", 64, 256), "v": random_blocks("Q8_0", 32, 256)}
    types = {"q": "Q4_1", "v": "Q8_0"}
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    for name, raw in matrices.items():
        writer.add_tensor(f"{name}.weight", raw, raw_dtype=GGMLQuantizationType[types[name]])
    writer.add_tensor("v.bias", np.arange(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GGUFSource(tmp_path / "m.gguf") as source:
        weights = WeightsFile()
        graph = Graph(weights)
        y = RECIPES[recipe](graph, source, lambda size: None).linear(
            graph.input("x", ir.DataType.FLOAT, ("B", "S", 256)), "q", "v"
        )
        graph.output(y, "y", ("B", "S", 96))
        weights.write(tmp_path)
        (tmp_path / MODEL).write_bytes(graph.serialized("test"))
    nodes = [node for node in ir.load(tmp_path / MODEL).graph if node.op_type == "MatMulNBits"]
    assert [node.attributes["bits"].as_int() for node in nodes] == bits
    x = np.random.default_rng(0).standard_normal((1, 3, 256)).astype(np.float32)
    result = ort.InferenceSession(tmp_path / MODEL, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    expected = x @ np.concatenate([dequantised(raw, types[name]) for name, raw in matrices.items()]).T
    expected[..., 64:] += np.arange(32)
    assert np.sqrt(((result - expected) ** 2).mean() / (expected**2).mean()) < (0.1 if recipe == "q4" else 0.02)


@pytest.mark.parametrize("tied", [False, True])
def test_embedding_and_head_keep_8_bits(tmp_path: Path, tied: bool) -> None:
    convert(write_tiny_gguf(tmp_path / "m.gguf", tensor_type="F16", tied=tied), tmp_path / "q4", "q4")
    nodes = list(ir.load(tmp_path / "q4" / MODEL).graph)
    products = [node.attributes["bits"].as_int() for node in nodes if node.op_type == "MatMulNBits"]
    assert products == [4] * (len(products) - 1) + [8]
    assert [node.attributes["bits"].as_int() for node in nodes if node.op_type == "GatherBlockQuantized"] == [8]


@pytest.mark.parametrize("recipe", ["fp32", "exact", "compact"])
def test_importance_is_the_mean_square_of_inputs(tmp_path: Path, recipe: str) -> None:
    source = write_tiny_gguf(tmp_path / "m.gguf", tensor_type="Q4_1")
    convert(source, tmp_path / recipe, recipe)
    found = importance(tmp_path / recipe)
    with GGUFSource(source) as gguf:
        matrices = {name for name, tensor in gguf.tensors.items() if len(tensor.shape) == 2}
        rows = gguf.values(gguf.tensors["token_embd.weight"])[calibration_tokens(tmp_path / recipe)]
        gain = gguf.values(gguf.tensors["blk.0.attn_norm.weight"])
        assert {name: found[name].shape for name in found} == {
            name: gguf.tensors[name].shape[1:] for name in matrices - {"token_embd.weight"}
        }
    normed = rows / np.sqrt((rows**2).mean(axis=1, keepdims=True)) * gain
    expected = (normed**2).mean(axis=0)
    for name in ("attn_q", "attn_k", "attn_v"):
        np.testing.assert_allclose(found[f"blk.0.{name}.weight"], expected, rtol=0.02)


@pytest.mark.slow
def test_a_full_precision_model_survives_4_bits(
    smollm2_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third of plain rounding's loss at most, where the source's own grid is no help."""
    source = write_shuffled(smollm2_gguf, tmp_path / "f16.gguf")
    convert(source, tmp_path / "exact", "exact")
    tokenizer = Tokenizer.from_file(str(tmp_path / "exact" / TOKENIZER))
    text = (DATA / "english.txt").read_text(encoding="utf-8")
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    windows = [ids[:WINDOW_TOKENS], ids[WINDOW_TOKENS : 2 * WINDOW_TOKENS]]
    exact = mean_nll(window_logits(tmp_path / "exact", windows), windows)
    assert exact == pytest.approx(3.245, abs=0.01)

    def loss(name: str) -> float:
        convert(source, tmp_path / name, "q4")
        return mean_nll(window_logits(tmp_path / name, windows), windows) - exact

    weights = importance(tmp_path / "exact")

    class Informed(FourBits):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.importance = weights

    monkeypatch.setitem(RECIPES, "q4", Informed)
    weighted = loss("weighted")
    monkeypatch.setattr(compact, "grid", plain_grid)
    monkeypatch.setitem(bars.BARS, "q4", bars.Bar(nll=1.0, top1=0.0))  # which plain rounding does not reach
    assert weighted < 0.1
    assert weighted < 0.35 * loss("plain")
