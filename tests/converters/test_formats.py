"""Every block format, repacked and multiplied by ONNX Runtime, against the reference library's dequantisation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, quants
from gguf.constants import GGML_QUANT_SIZES

from appliance.bundle import MODEL
from converters.formats import Format, format_for, pack, unpack
from converters.gguf_source import READABLE, GGUFSource
from converters.graph import Graph
from converters.recipes import RECIPES
from converters.weights import WeightsFile

EXACT = ("Q4_0", "Q5_0", "Q8_0")
SUMS = ("Q4_1", "Q4_K")
WITH_PLACED_STEPS = {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"}
HALVES = {"Q4_0": 1, "Q4_1": 2, "Q5_0": 1, "Q5_1": 2, "Q8_0": 1, "Q4_K": 2, "Q5_K": 2}


def random_blocks(type_name: str, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Random but sane blocks of a type: [rows, bytes]."""
    rng = np.random.default_rng(seed)
    if type_name == "F64":
        return rng.standard_normal((rows, columns)).view(np.uint8)
    kind = GGMLQuantizationType[type_name]
    if type_name not in WITH_PLACED_STEPS:
        return random_bytes(type_name, rows, columns, rng)
    if type_name in ("F32", "F16", "BF16"):
        raw: np.ndarray = quants.quantize(rng.standard_normal((rows, columns)).astype(np.float32), kind)
        return np.ascontiguousarray(raw).view(np.uint8).reshape(rows, -1)
    values, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows, columns // values, size), dtype=np.uint8)
    steps = rng.uniform(0.5, 2, blocks.shape[:2]) / (16 if type_name.endswith("K") else 1)
    if type_name == "Q6_K":
        blocks[..., -2:] = halves(steps)
    else:
        blocks[..., :2] = halves(steps)
    if HALVES.get(type_name) == 2:
        sign = 1 if type_name.endswith("K") else -1  # the minimum is subtracted there
        blocks[..., 2:4] = halves(sign * steps * rng.uniform(3, 7, steps.shape))
    if type_name in ("Q4_K", "Q5_K"):
        blocks[..., 4:12] = rng.integers(160, 192, blocks[..., 4:12].shape)  # 6-bit scales of 32 … 63
    return blocks.reshape(rows, -1)


def random_bytes(type_name: str, rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Blocks of any bytes whose values are of ordinary size, whatever their layout."""
    kind = GGMLQuantizationType[type_name]
    values, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * columns // values, size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        while True:
            largest = np.abs(quants.dequantize(blocks, kind)).max(axis=1)
            odd = ~((largest > 1e-3) & (largest < 1e4))
            if not odd.any():
                break
            blocks[odd] = rng.integers(0, 256, (odd.sum(), size), dtype=np.uint8)
    return blocks.reshape(rows, -1)


def halves(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16)[..., None].view(np.uint8)


def dequantised(raw: np.ndarray, type_name: str) -> np.ndarray:
    if type_name == "F64":
        return raw.view(np.float64).astype(np.float32)
    values: np.ndarray = quants.dequantize(raw, GGMLQuantizationType[type_name])
    return values


def multiplied(folder: Path, raw: np.ndarray, type_name: str, x: np.ndarray, recipe: str = "exact") -> np.ndarray:
    """x times the matrix of these blocks, through a GGUF file, the recipe and ONNX Runtime."""
    writer = GGUFWriter(folder / "m.gguf", "llama")
    if type_name in ("F32", "F64"):
        writer.add_tensor("m.weight", raw.view(f"float{type_name[1:]}"))
    else:
        writer.add_tensor("m.weight", raw, raw_dtype=GGMLQuantizationType[type_name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GGUFSource(folder / "m.gguf") as source:
        weights = WeightsFile()
        graph = Graph(weights)
        chosen = RECIPES[recipe](graph, source, lambda size: None)
        y = chosen.linear(graph.input("x", ir.DataType.FLOAT, ("B", "S", x.shape[1])), "m")
        graph.output(y, "y", ("B", "S", len(raw)))
        weights.write(folder)
        (folder / MODEL).write_bytes(graph.serialized("test"))
    session = ort.InferenceSession(folder / MODEL, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": x[None]})[0][0]
    return result


def test_every_type_that_the_reference_can_dequantise_is_read() -> None:
    known = {kind.name for kind in quants._type_traits}
    assert known | {"F64", "F32", "F16"} == set(READABLE)


@pytest.mark.parametrize(("type_name", "rows"), [*((kind, 48) for kind in READABLE), *((kind, 2048) for kind in SUMS)])
def test_each_weight_survives(tmp_path: Path, type_name: str, rows: int) -> None:
    """Rows of the identity are rounded without loss, so the product is the stored matrix itself."""
    columns = 512
    raw = random_blocks(type_name, rows, columns)
    expected = dequantised(raw, type_name)
    stored = multiplied(tmp_path, raw, type_name, np.eye(columns, dtype=np.float32)).T
    if type_name in EXACT:
        bound = np.full_like(expected, 2e-6 * np.abs(expected).max())
    elif type_name in SUMS and rows * columns >= 3 << 18:
        bound = np.full_like(expected, 0.02)  # of steps of 0.5 … 2, in Q4_K up to 8
    else:
        largest = np.abs(expected.reshape(rows, -1, 64)).max(axis=2)
        bound = np.repeat(largest / 127 * 0.51, 64, axis=1)
    assert (np.abs(stored - expected) <= bound + 1e-5 * np.abs(expected)).all()


@pytest.mark.parametrize("type_name", READABLE)
def test_fp32_recipe_keeps_every_value(tmp_path: Path, type_name: str) -> None:
    raw = random_blocks(type_name, 24, 512)
    stored = multiplied(tmp_path, raw, type_name, np.eye(512, dtype=np.float32), "fp32").T
    np.testing.assert_allclose(stored, dequantised(raw, type_name), rtol=1e-6)


@pytest.mark.parametrize("type_name", SUMS)
def test_products_with_sums(tmp_path: Path, type_name: str) -> None:
    raw = random_blocks(type_name, 1024, 1024)
    x = np.random.default_rng(5).standard_normal((7, 1024)).astype(np.float32) + 0.5
    expected = x @ dequantised(raw, type_name).T
    error = multiplied(tmp_path, raw, type_name, x) - expected
    assert np.sqrt((error**2).mean() / (expected**2).mean()) < 0.01


def test_sums_survive_awkward_blocks() -> None:
    """Blocks that are constant, empty, or wholly on one side of zero; and nothing but noise."""
    form = Format(4, 32, sums=True)
    blocks = random_blocks("Q4_1", 64, 1024).reshape(64, 32, 20)
    blocks[0, 3, :4] = 0
    blocks[1, 4, :2] = 0
    blocks[2, :, :4] = 0
    blocks[3, 5, 2:4] = halves(np.array([7.0]))
    blocks[4, 6, 2:4] = halves(np.array([-60.0]))
    raw = blocks.reshape(64, -1)
    expected = dequantised(raw, "Q4_1")
    error = np.abs(unpack(pack(raw, expected, "Q4_1", form), form, 1024) - expected)
    assert error[2].max() == 0
    assert error.max() < 0.005 * np.abs(expected).max()

    noise = np.random.default_rng(0).integers(0, 256, (64, 4, 144), dtype=np.uint8)
    noise[..., 1:4:2] &= 0x3F  # the two float16 numbers below 2
    noise = noise.reshape(64, -1)
    expected = dequantised(noise, "Q4_K")
    error = np.abs(unpack(pack(noise, expected, "Q4_K", form), form, 1024) - expected)
    assert error.max() < 0.005 * np.abs(expected).max()


@pytest.mark.parametrize("columns", [32, 80, 96, 100, 352])
def test_rows_of_any_length(tmp_path: Path, columns: int) -> None:
    raw = random_blocks("F32", 16, columns)
    expected = dequantised(raw, "F32")
    stored = multiplied(tmp_path, raw, "F32", np.eye(columns, dtype=np.float32)).T
    assert np.abs(stored - expected).max() <= np.abs(expected).max() / 127 * 0.51


@pytest.mark.parametrize("type_name", READABLE)
def test_all_zeros(tmp_path: Path, type_name: str) -> None:
    raw = np.zeros_like(random_blocks(type_name, 8, 256))
    assert not multiplied(tmp_path, raw, type_name, np.eye(256, dtype=np.float32)).any()


def test_fused_types_take_the_finest_format() -> None:
    large, small = (4096, 1024), (64, 64)
    assert format_for(["Q4_0", "Q4_0"], large) == Format(4, 32)
    assert format_for(["Q4_K", "Q4_K"], large) == Format(4, 32, sums=True)
    assert format_for(["Q4_K", "Q4_0"], large) == Format(4, 32, sums=True)
    assert format_for(["Q4_K", "Q4_K"], small) == Format(8, 64)
    assert format_for(["Q4_K", "Q6_K"], large) == Format(8, 64)
    assert format_for(["Q4_0", "Q6_K"], large) == Format(8, 32)
    assert format_for(["Q8_0", "Q4_1"], large) == Format(8, 32)
    assert format_for(["Q4_1"], large, embedding=True) == Format(8, 64)
    assert format_for(["F16"], (64, 96)) == Format(8, 32)
    assert format_for(["Q8_0"], (1 << 18, 640)) == Format(8, 128)
    assert format_for(["Q8_0"], (1 << 18, 576)) == Format(8, 32)
    assert format_for(["Q8_0"], (1 << 18, 640), embedding=True) == Format(8, 32)


@pytest.mark.parametrize("type_name", ["Q8_0", "Q5_0", "F32"])
def test_more_than_4_bits_are_rounded_to_4(type_name: str) -> None:
    raw = random_blocks(type_name, 32, 256)
    values = dequantised(raw, type_name)
    stored = unpack(pack(raw, values, type_name, Format(4, 32)), Format(4, 32), 256)
    largest = np.abs(values.reshape(32, -1, 32)).max(axis=2)
    assert (np.abs(stored - values) <= np.repeat(largest / 7 * 0.501, 32, axis=1)).all()


@pytest.mark.parametrize("form", [Format(4, 32), Format(8, 32), Format(4, 32, sums=True)])
def test_q4_0_is_exact_in_every_company(form: Format) -> None:
    raw = random_blocks("Q4_0", 32, 256)
    values = dequantised(raw, "Q4_0")
    np.testing.assert_allclose(unpack(pack(raw, values, "Q4_0", form), form, 256), values, rtol=1e-6)
