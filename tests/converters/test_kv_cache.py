"""The int8 KV cache: what the graph computes is the model's function over a cache rounded by the stored scales."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from appliance.bundle import BATCH, DESCRIPTION, MODEL, read_description
from appliance.errors import UnsupportedModel
from converters import bundle as conversion
from converters.bundle import convert
from converters.fidelity import calibration_tokens
from converters.kv_cache import CALIBRATION_TOKENS, HEADROOM, cache_scales
from tests.converters import llama_reference
from tests.converters.running import Decoder
from tests.converters.test_graph import relative_error
from tests.converters.test_rotated import BIASES
from tests.tiny_model import write_tiny_gguf

IDS = [int(token) for token in np.random.default_rng(6).integers(0, 267, 48)]
SHAPES: list[dict[str, Any]] = [
    {},
    {"tensors": BIASES},
    {"heads": 8, "kv_heads": 1, "hidden": 128},
    {"hidden": 96, "heads": 3, "kv_heads": 3, "intermediate": 80, "tied": True},
]


def shape_name(shape: dict[str, Any]) -> str:
    return " ".join(shape) or "plain"


def stored_scales(path: Path) -> dict[str, np.ndarray]:
    """The scales in a graph file, by cache: "key.0", "value.0" …"""
    scales = {}
    for value in ir.load(path).graph.initializers.values():
        assert value.name
        if value.name.startswith("past_"):
            assert value.const_value is not None
            scales[value.name.removeprefix("past_").removesuffix(".scale")] = value.const_value.numpy()
    return scales


def rounded_reference(source: Path, graph: Path) -> np.ndarray:
    """Logits of the model in float64 over keys and values that int8 with the graph's scales can hold."""
    scales = stored_scales(graph)

    def cached(name: str, values: np.ndarray) -> np.ndarray:
        result: np.ndarray = np.clip(np.rint(values / scales[name]), -128, 127) * scales[name]
        return result

    return llama_reference.logits(source, IDS, cached)


@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
def test_the_graph_computes_with_a_rounded_cache_and_nothing_else(tmp_path: Path, shape: dict[str, Any]) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", **shape)
    convert(source, tmp_path / "bundle", "fp32", kv="q8_0")
    decoder = Decoder(tmp_path / "bundle")
    logits = decoder.all_logits(IDS)
    assert relative_error(logits, rounded_reference(source, tmp_path / "bundle" / MODEL)) < 1e-3
    assert 0.01 < relative_error(logits, llama_reference.logits(source, IDS)) < 0.2
    assert {value.numpy().dtype for value in decoder.cache.values()} == {np.dtype(np.int8)}


@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
@pytest.mark.parametrize(("recipe", "graph"), [("exact", MODEL), ("int8-rotated", MODEL), ("int8-rotated", BATCH)])
def test_quantised_matrices_beside_an_int8_cache(
    tmp_path: Path, recipe: str, graph: str, shape: dict[str, Any]
) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", **shape)
    convert(source, tmp_path / "bundle", recipe, kv="q8_0")
    logits = Decoder(tmp_path / "bundle", graph=graph).all_logits(IDS)
    assert relative_error(logits, rounded_reference(source, tmp_path / "bundle" / graph)) < 0.11


@pytest.mark.parametrize("recipe", ["fp32", "exact", "int8-rotated"])
def test_chunks_read_the_same_cache(tmp_path: Path, recipe: str) -> None:
    convert(write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "bundle", recipe, kv="q8_0")
    graph = BATCH if recipe == "int8-rotated" else MODEL
    whole, decoder = (Decoder(tmp_path / "bundle", graph=graph) for _ in range(2))
    expected, done = whole.all_logits(IDS), 0
    for size in (20, 2, 7, 19):
        part = decoder.step([IDS[done : done + size]], [done], [range(size)])[0]
        assert relative_error(part, expected[done : done + size]) < 2e-3
        done += size
    for name, cache in whole.cache.items():
        difference = decoder.cache[name].numpy().astype(int) - cache.numpy()
        assert np.abs(difference).max() <= 1
        assert (difference != 0).mean() < 1e-3


def test_scales_are_those_of_the_text_and_both_graphs_have_them(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", heads=4, kv_heads=2)
    convert(source, tmp_path / "f32", conversion.ROTATED_DECODES_WITH)
    convert(source, tmp_path / "int8", "int8-rotated", kv="q8_0")
    tokens = calibration_tokens(tmp_path / "f32")
    found = cache_scales(tmp_path / "f32" / MODEL, tokens)
    assert set(found) == {f"past_{kind}.{layer}" for kind in ("key", "value") for layer in range(2)}
    assert {scale.shape for scale in found.values()} == {(2, 1, 16)}
    assert {scale.dtype for scale in found.values()} == {np.dtype(np.float32)}

    decoder = Decoder(tmp_path / "f32", capacity=CALIBRATION_TOKENS)
    decoder.step([tokens[:CALIBRATION_TOKENS]], [0], [[0]])
    for name, cache in decoder.cache.items():
        largest = np.abs(cache.numpy()[0]).max(axis=1, keepdims=True)
        np.testing.assert_allclose(found[f"past_{name}"] * 127, largest * HEADROOM, rtol=1e-4)
    for graph in (MODEL, BATCH):
        stored = stored_scales(tmp_path / "int8" / graph)
        assert set(stored) == set(decoder.cache)
        for name, scale in stored.items():
            np.testing.assert_allclose(scale, found[f"past_{name}"], rtol=1e-4)


def test_a_channel_that_is_always_zero_has_a_scale(tmp_path: Path) -> None:
    """A scale of 0 would make the graph divide by it."""
    silent = {f"blk.{layer}.attn_v.weight": np.zeros((32, 64), np.float32) for layer in range(2)}
    source = write_tiny_gguf(tmp_path / "tiny.gguf", tensors=silent)
    convert(source, tmp_path / "bundle", "fp32", kv="q8_0")
    assert all((scale > 0).all() for scale in stored_scales(tmp_path / "bundle" / MODEL).values())
    logits = Decoder(tmp_path / "bundle").all_logits(IDS)
    np.testing.assert_allclose(logits, llama_reference.logits(source, IDS), atol=2e-4)


@pytest.mark.parametrize("recipe", ["exact", "int8-rotated"])
def test_the_description_tells(tmp_path: Path, recipe: str) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf")
    full = convert(source, tmp_path / "f32", recipe)
    small = convert(source, tmp_path / "int8", recipe, kv="q8_0")
    assert (full.kv_dtype, small.kv_dtype) == ("float32", "int8")
    assert json.loads((tmp_path / "int8" / DESCRIPTION).read_text())["kv_dtype"] == "int8"
    assert read_description(tmp_path / "int8") == small
    assert small.kv_bytes_per_token == 2 * 2 * 2 * 16
    assert full.kv_bytes_per_token == 4 * small.kv_bytes_per_token


def test_the_context_may_be_shorter_than_the_text(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", context_length=64)
    convert(source, tmp_path / "bundle", "fp32", kv="q8_0")
    expected = rounded_reference(source, tmp_path / "bundle" / MODEL)
    assert relative_error(Decoder(tmp_path / "bundle").all_logits(IDS), expected) < 1e-3


def test_an_unknown_type_is_refused_by_name(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(UnsupportedModel, match="KV cache type 'q4_0' is not supported; supported: f32, q8_0"):
        convert(source, tmp_path / "bundle", "exact", kv="q4_0")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


def test_nothing_stays_of_a_calibration_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf")
    seen = []

    def fail(path: Path, tokens: list[int]) -> None:
        seen.extend(sorted(each.name for each in path.parent.parent.iterdir()))
        raise RuntimeError("no calibration today")

    monkeypatch.setattr(conversion, "cache_scales", fail)
    with pytest.raises(RuntimeError, match="today"):
        convert(source, tmp_path / "bundle", "exact", kv="q8_0")
    assert len(seen) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]
    monkeypatch.undo()
    assert convert(source, tmp_path / "bundle", "exact", kv="q8_0").kv_dtype == "int8"
