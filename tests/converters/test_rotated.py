"""The batch graph of int8-rotated: as near to the fp32 graph as int8 gets, in logits and in the cache it shares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from appliance.bundle import BATCH, MODEL
from appliance.errors import UnsupportedModel
from appliance.store.gguf_header import TensorInfo
from converters.bundle import ROTATED_DECODES_WITH, convert
from converters.gguf_source import GGUFSource
from converters.recipes import rotated
from converters.recipes.base import Recipe
from converters.recipes.exact import Exact
from converters.recipes.rotated import Rotated, Rotation, hadamard, orthogonal, round_rows
from tests.converters.running import Decoder
from tests.converters.test_graph import relative_error, vectors
from tests.tiny_model import write_tiny_gguf

Mistake = Callable[[pytest.MonkeyPatch], None]

RNG = np.random.default_rng(5)
IDS = [int(token) for token in RNG.integers(0, 267, 48)]
SIZES = [1, 2, 3, 15, 64, 80, 96, 100, 192, 576, 960, 1536, 4096]
BIASES = vectors(
    2,
    {"attn_q": 64, "attn_k": 32, "attn_v": 32, "attn_output": 64, "ffn_gate": 96, "ffn_up": 96, "ffn_down": 64},
)


def dense(rotation: Rotation) -> np.ndarray:
    """The matrix [K, K] written out as its definition says, in float64."""
    factors = np.kron(rotation.left.astype(np.float64), rotation.right.astype(np.float64))
    result: np.ndarray = np.diag(rotation.signs.astype(np.float64)) @ factors
    return result


@pytest.mark.parametrize("size", [size for size in SIZES if size < 2000])
def test_the_matrix_is_orthogonal(size: int) -> None:
    matrix = dense(Rotation.random(size))
    assert matrix.shape == (size, size)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=2e-6)


@pytest.mark.parametrize("size", SIZES)
def test_rows_keep_lengths_and_angles(size: int) -> None:
    rows = RNG.standard_normal((7, size)).astype(np.float32)
    rotated = Rotation.random(size).rows(rows)
    np.testing.assert_allclose(rotated @ rotated.T, rows @ rows.T, atol=1e-5 * size + 1e-5)


@pytest.mark.parametrize("size", [size for size in SIZES if size < 2000])
def test_rows_are_multiplied_by_the_matrix(size: int) -> None:
    rotation = Rotation.random(size)
    rows = RNG.standard_normal((5, size)).astype(np.float32)
    np.testing.assert_allclose(rotation.rows(rows), rows @ dense(rotation), atol=1e-5)


def test_the_rotation_of_a_size_is_always_the_same() -> None:
    one, other = Rotation.random(576), Rotation.random(576)
    np.testing.assert_array_equal(dense(one), dense(other))


@pytest.mark.parametrize("size", [64, 96, 576, 960, 4096])
def test_an_outlier_is_spread_over_the_row(size: int) -> None:
    """A row with one value becomes one whose largest value is a few times the mean: what int8 needs."""
    for place in range(0, size, max(1, size // 20)):
        row = np.zeros((1, size), np.float32)
        row[0, place] = np.sqrt(size)
        assert np.abs(Rotation.random(size).rows(row)).max() < 4.5


def test_hadamard_has_equal_magnitudes() -> None:
    for size in (1, 2, 8, 64):
        matrix = hadamard(size)
        np.testing.assert_allclose(np.abs(matrix), size**-0.5, rtol=1e-6)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 8, 9, 15, 45, 64])
def test_orthogonal_of_any_size(size: int) -> None:
    matrix = orthogonal(size, np.random.default_rng(0))
    assert (matrix.shape, matrix.dtype) == ((size, size), np.float32)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-6)


def test_rounding_errs_by_half_a_step() -> None:
    values = RNG.standard_normal((50, 96)).astype(np.float32) * RNG.lognormal(size=(50, 1)).astype(np.float32)
    values[7] = 0
    rounded, steps = round_rows(values)
    assert (rounded.dtype, steps.dtype, steps.shape) == (np.int8, np.float32, (50,))
    assert (np.abs(rounded * steps[:, None] - values) <= 0.5001 * steps[:, None]).all()
    largest = np.abs(values).max(axis=1)
    np.testing.assert_allclose(np.delete(127 * steps, 7), np.delete(largest, 7), rtol=1e-6)
    assert not rounded[7].any()


SHAPES: list[dict[str, Any]] = [
    {},
    {"tied": True},
    {"tensors": BIASES},
    {"tensor_type": "Q4_1"},
    {"heads": 8, "kv_heads": 1, "hidden": 128},
    {"hidden": 96, "heads": 6, "kv_heads": 2, "intermediate": 160},
    {"hidden": 96, "heads": 3, "kv_heads": 3, "intermediate": 80, "tied": True},
    {"hidden": 160, "heads": 5, "kv_heads": 5, "intermediate": 448},
]


def errors(base: Path, name: str = "int8-rotated", **shape: Any) -> dict[str, float]:
    """Relative RMS errors of the batch graph against the fp32 graph: of the logits, and of the cache of each layer."""
    source = base / "tiny.gguf"
    if not source.exists():
        convert(write_tiny_gguf(source, **shape), base / "fp32", "fp32")
    convert(source, base / name, "int8-rotated")
    full, own = Decoder(base / "fp32"), Decoder(base / name, graph=BATCH)
    result = {"logits": relative_error(own.all_logits(IDS), full.all_logits(IDS))}
    for part, value in own.cache.items():
        result[part] = relative_error(value.numpy(), full.cache[part].numpy())
    return result


def near(found: dict[str, float]) -> bool:
    """Whether errors are those of int8. Every layer of random weights adds its own, and makes earlier ones larger."""
    bounds = {"key.0": 0.018, "value.0": 0.018, "key.1": 0.07, "value.1": 0.07, "logits": 0.11}
    return all(error < bounds[name] for name, error in found.items())


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: " ".join(shape) or "plain")
def test_logits_and_cache_are_near_those_of_fp32(tmp_path: Path, shape: dict[str, Any]) -> None:
    found = errors(tmp_path, **shape)
    assert set(found) == {"logits", "key.0", "value.0", "key.1", "value.1"}
    assert near(found), found


def no_gain(norm: str) -> Mistake:
    """The gain of these norms is lost."""
    values = GGUFSource.values

    def forgetful(self: GGUFSource, tensor: TensorInfo) -> np.ndarray:
        return np.ones(tensor.shape, np.float32) if norm in tensor.name else values(self, tensor)

    return lambda patch: patch.setattr(GGUFSource, "values", forgetful)


def plain_writer(name: str) -> Mistake:
    """A matrix writes the residual stream without the rotation."""
    back = Rotated.back

    def forgetful(self: Rotated, x: ir.Value, matrix: str) -> ir.Value:
        return Exact.linear(self, x, matrix) if name in matrix else back(self, x, matrix)

    return lambda patch: patch.setattr(Rotated, "back", forgetful)


MISTAKES: dict[str, Mistake] = {
    "no gain of attention": no_gain("attn_norm"),
    "no gain of the second half": no_gain("ffn_norm"),
    "no gain of the head": no_gain("output_norm"),
    "attention writes as it is": plain_writer("attn_output"),
    "the second half writes as it is": plain_writer("ffn_down"),
    "embeddings enter as they are": lambda patch: patch.setattr(Rotated, "enter", Recipe.enter),
    "no bias of writers": lambda patch: patch.setattr(Rotated, "_rotated_bias", lambda *arguments: None),
    "a bias as it is": lambda patch: patch.setattr(Rotated, "_rotated_bias", lambda self, name, rows: self._bias(
        [name], [self.source.tensors[f"{name}.weight"]])),
    "no bias of readers": lambda patch: patch.setattr(Rotated, "_bias", lambda *arguments: None),
    "inputs in steps of another size": lambda patch: patch.setattr(rotated, "INPUT_SCALE", 3 / 127),
}  # fmt: skip


def test_the_bounds_see_mistakes(tmp_path: Path) -> None:
    """What the bounds above are worth."""
    assert near(errors(tmp_path, "right", tensors=BIASES))
    for name, mistake in MISTAKES.items():
        with pytest.MonkeyPatch.context() as patch:
            mistake(patch)
            assert not near(errors(tmp_path, name)), name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("rows")
    source = write_tiny_gguf(base / "tiny.gguf", hidden=192, heads=6, kv_heads=2, intermediate=320)
    convert(source, base / "bundle", "int8-rotated")
    return base / "bundle"


class TestRowsAreIndependent:
    """A row has the same bits in its logits and its cache, whoever runs beside it, in whatever chunks."""

    @pytest.mark.parametrize("sizes", [(2,) * 24, (5, 43), (30, 2, 16), (33, 3, 12)])
    def test_in_any_chunks(self, folder: Path, sizes: tuple[int, ...]) -> None:
        whole, decoder = Decoder(folder, graph=BATCH), Decoder(folder, graph=BATCH)
        expected, done = whole.all_logits(IDS), 0
        for size in sizes:
            part = decoder.step([IDS[done : done + size]], [done], [range(size)])[0]
            np.testing.assert_array_equal(part, expected[done : done + size])
            done += size
        for name, cache in whole.cache.items():
            np.testing.assert_array_equal(decoder.cache[name].numpy(), cache.numpy())

    @pytest.mark.parametrize("others", [1, 3, 7])
    def test_in_any_company(self, folder: Path, others: int) -> None:
        whole = Decoder(folder, graph=BATCH)
        expected = whole.all_logits(IDS)
        decoder = Decoder(folder, rows=others + 1, graph=BATCH)
        company = [RNG.integers(0, 267, 48).tolist() for _ in range(others)]
        done = [0] * (others + 1)
        for size in (20, 1, 1, 3, 1, 22):  # once the prompt is past, one token a row, as when decoding
            sizes = [*(min(size, 1 + place * 4) for place in range(others)), size]
            parts = [text[at : at + each] for text, at, each in zip([*company, IDS], done, sizes, strict=True)]
            logits = decoder.step(parts, done, [[each - 1] for each in sizes])
            done = [at + each for at, each in zip(done, sizes, strict=True)]
            np.testing.assert_array_equal(logits[-1, 0], expected[done[-1] - 1])
        for name, cache in whole.cache.items():
            np.testing.assert_array_equal(decoder.cache[name].numpy()[-1], cache.numpy()[0])


def test_the_other_graph_is_that_of_a_recipe_without_rotation(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", tensor_type="Q4_1")
    rotated, plain = (tmp_path / recipe for recipe in ("int8-rotated", ROTATED_DECODES_WITH))
    for folder in (rotated, plain):
        convert(source, folder, folder.name)
    assert (rotated / MODEL).read_bytes() == (plain / MODEL).read_bytes()
    assert not (plain / BATCH).exists()
    own, other = (Decoder(folder).all_logits(IDS) for folder in (rotated, plain))
    np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize("tied", [False, True])
def test_all_matrices_are_int8_and_what_both_graphs_read_is_stored_once(tmp_path: Path, tied: bool) -> None:
    convert(write_tiny_gguf(tmp_path / "tiny.gguf", tied=tied), tmp_path / "bundle", "int8-rotated")
    plain, batch = (ir.load(tmp_path / "bundle" / name).graph for name in (MODEL, BATCH))
    kinds = [node.op_type for node in batch]
    assert kinds.count("MatMulIntegerToFloat") == 2 * 5 + 1
    assert "MatMulNBits" not in kinds
    for name in ("token_embd.table", "token_embd.table.scales", "cos", "sin"):
        own, other = (graph.initializers[name].const_value for graph in (batch, plain))
        assert isinstance(own, ir.ExternalTensor)
        assert isinstance(other, ir.ExternalTensor)
        assert (own.offset, own.length) == (other.offset, other.length)


def test_sizes_with_small_powers_of_two(tmp_path: Path) -> None:
    assert near(errors(tmp_path, hidden=33 * 32, heads=11, kv_heads=1, intermediate=50))


def test_an_embedding_of_a_size_that_blocks_do_not_fill_is_refused_by_name(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", hidden=80, heads=5, kv_heads=1)
    with pytest.raises(UnsupportedModel, match="an embedding of 80 columns"):
        convert(source, tmp_path / "bundle", "int8-rotated")
