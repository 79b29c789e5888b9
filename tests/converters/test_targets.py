"""Graphs for CUDA and DirectML. No such device is here: what can be held against the CPU's graph, is.

Each graph passes onnx's checker and ONNX Runtime's strict shape inference, has only operators and inputs that its
provider has kernels for, and computes on the CPU provider what the float32 graph computes, within float16.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from appliance.bundle import MODEL, Bundle, read_description
from appliance.engine import arena, providers
from appliance.engine.backend import Row
from appliance.engine.binding import Bindings
from appliance.engine.ort import OrtBackend
from appliance.errors import ModelFileError, UnsupportedModel
from converters.bundle import convert
from tests.converters.running import HALF, relative_error
from tests.tiny_model import write_tiny_gguf

TOKENS = tuple(int(token) for token in np.random.default_rng(6).integers(0, 256, 60))


def biased_gguf(path: Path) -> Path:
    """A tiny model with biases and a tied, quantised embedding: what the targets treat differently."""
    rng = np.random.default_rng(1)
    biases = {
        f"blk.{layer}.{name}.bias": rng.standard_normal(size).astype(np.float32)
        for layer in range(2)
        for name, size in (("attn_q", 64), ("attn_k", 32), ("attn_v", 32), ("attn_output", 64))
    }
    return write_tiny_gguf(path, tied=True, tensor_type="Q8_0", tensors=biases)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles of one source, by recipe and target."""
    folder = tmp_path_factory.mktemp("targets")
    source = biased_gguf(folder / "tiny.gguf")
    for recipe in ("fp32", "exact"):
        for target in ("cpu", "cuda", "directml"):
            convert(source, folder / f"{recipe}-{target}", recipe, target=target)
    return folder


def opened(folder: Path) -> OrtBackend:
    return OrtBackend(folder, read_description(folder), slots=3, provider=providers.CPU, threads=1)


def logits(folder: Path) -> np.ndarray:
    backend = opened(folder)
    result = backend.run([Row(0, 0, TOKENS, logits=60)])[0].copy()
    backend.close()
    return result


@pytest.mark.proves(source="GGUF", architecture="llama")
@pytest.mark.parametrize("target", ["cuda", "directml"])
def test_a_target_computes_what_the_cpu_computes(folder: Path, target: str) -> None:
    reference, mine = logits(folder / "fp32-cpu"), logits(folder / f"fp32-{target}")
    assert mine.dtype == np.float32
    assert 0 < relative_error(mine, reference) < HALF


@pytest.mark.parametrize("target", ["cuda", "directml"])
def test_quantised_weights_are_as_close_as_on_the_cpu(folder: Path, target: str) -> None:
    reference = logits(folder / "fp32-cpu")
    assert (
        relative_error(logits(folder / f"exact-{target}"), reference)
        < relative_error(logits(folder / "exact-cpu"), reference) + HALF
    )


@pytest.mark.parametrize("target", ["cuda", "directml"])
def test_rows_take_turns_and_go_on_from_their_caches(folder: Path, target: str) -> None:
    backend = opened(folder / f"exact-{target}")
    whole = backend.run([Row(0, 0, TOKENS, logits=60)])[0].copy()
    backend.run([Row(0, 0, TOKENS[:9], logits=0), Row(2, 0, TOKENS[:30], logits=0)])
    rows = [Row(0, 9, TOKENS[9:12], logits=2), Row(1, 0, TOKENS[:5]), Row(2, 30, TOKENS[30:31])]
    for mine, expected in zip(backend.run(rows), (whole[10:12], whole[4:5], whole[30:31]), strict=True):
        assert relative_error(mine, expected) < HALF
    backend.close()


@pytest.mark.parametrize("target", ["cuda", "directml"])
def test_one_token_each_of_adjacent_slots_is_one_run(
    folder: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = opened(folder / f"exact-{target}")
    whole = backend.run([Row(0, 0, TOKENS, logits=60)])[0].copy()
    pasts = (9, 30, 17)
    backend.run([Row(slot, 0, TOKENS[:past], logits=0) for slot, past in enumerate(pasts)])
    runs: list[list[int]] = []
    run = Bindings.run
    monkeypatch.setattr(Bindings, "run", lambda self, rows: runs.append([row.slot for row in rows]) or run(self, rows))
    for at in range(3):
        rows = [Row(slot, past + at, (TOKENS[past + at],)) for slot, past in enumerate(pasts)]
        for mine, past in zip(backend.run(rows), pasts, strict=True):
            assert relative_error(mine, whole[past + at][None]) < HALF
    backend.run([Row(0, 12, TOKENS[12:13]), Row(2, 20, TOKENS[20:21])])
    assert runs == [[0, 1, 2]] * 3 + [[0], [2]]
    backend.close()


@pytest.mark.parametrize("name", ["blk.0.ffn_down.weight", "blk.0.ffn_norm.weight"])
def test_weights_beyond_float16_are_refused(tmp_path: Path, name: str) -> None:
    large = {name: np.full((64, 96) if "down" in name else 64, 7e4, np.float32)}
    source = write_tiny_gguf(tmp_path / "tiny.gguf", tensors=large)
    with pytest.raises(UnsupportedModel, match=r"a number of 70,000 among the weights for cuda .* at most 65,504"):
        convert(source, tmp_path / "bundle", "fp32", target="cuda")
    assert not (tmp_path / "bundle").exists()
    convert(source, tmp_path / "bundle", "fp32")


@pytest.mark.parametrize("target", ["cuda", "directml"])
def test_activations_beyond_float16_are_an_error_at_the_load(tmp_path: Path, target: str) -> None:
    large = {"blk.0.ffn_down.weight": 1.2e4 * np.random.default_rng(1).standard_normal((64, 96)).astype(np.float32)}
    convert(write_tiny_gguf(tmp_path / "tiny.gguf", tensors=large), tmp_path / "bundle", "fp32", target=target)
    with pytest.raises(ModelFileError, match="too large for float16"):
        opened(tmp_path / "bundle")


def test_a_graph_that_loads_and_does_not_run_is_an_error_at_the_load(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(Bindings, "run", fail)
    with pytest.raises(ModelFileError, match="the graph does not run: no kernel image"):
        opened(folder / "exact-cuda")


def test_a_slot_holds_the_models_context_on_the_cpu_and_what_is_asked_for_elsewhere(folder: Path) -> None:
    bundle = read_description(folder / "exact-cuda")
    capacities = [
        arena.slot_tokens(bundle, provider, context)
        for provider in (providers.CPU, providers.CUDA, providers.DIRECTML)
        for context in (None, 64, 10**6)
    ]
    assert capacities == [512, 512, 512, *[512, 64, 512] * 2]


def test_a_cache_that_a_device_has_no_room_for_is_an_error_that_says_what_to_do(folder: Path) -> None:
    bundle = read_description(folder / "exact-cuda")
    with pytest.raises(
        ModelFileError, match=r"cuda has no room for .* 268,435,456 MB, 1,000,000 slots of 1,048,576 tok"
    ):
        arena.Arena(bundle, 10**6, 2**20, "cuda")


@pytest.mark.parametrize("target", ["cuda", "directml"])
def test_the_bundle_says_what_it_is_for(folder: Path, target: str) -> None:
    bundle: Bundle = read_description(folder / f"exact-{target}")
    assert (bundle.target, bundle.kv_dtype) == (target, "float16")
    assert bundle.kv_bytes_per_token * 2 == read_description(folder / "exact-cpu").kv_bytes_per_token


@pytest.mark.parametrize("target", ["cpu", "cuda", "directml"])
@pytest.mark.parametrize("recipe", ["fp32", "exact"])
def test_types_and_shapes_fit_together(folder: Path, recipe: str, target: str) -> None:
    path = folder / f"{recipe}-{target}" / MODEL
    model = onnx.load(path, load_external_data=False)
    versions = {each.domain: each.version for each in model.opset_import}
    context = onnx.checker.C.CheckerContext()
    context.ir_version, context.opset_imports = model.ir_version, versions
    for node in model.graph.node:
        if onnx.defs.has(node.op_type, versions[""], node.domain):  # the others are ONNX Runtime's own
            onnx.checker.check_node(node, context)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.strict_shape_type_inference", "1")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    wanted = onnx.TensorProto.FLOAT if target == "cpu" else onnx.TensorProto.FLOAT16
    caches = [value for value in (*model.graph.input, *model.graph.output) if value.name.startswith(("past", "pres"))]
    assert len(caches) == 8
    assert {value.type.tensor_type.elem_type for value in caches} == {wanted}
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16} - {wanted}
    assert not [each.name for each in model.graph.initializer if each.data_type in floats]


def test_no_graph_for_an_accelerator_has_what_its_provider_lacks(folder: Path) -> None:
    graphs = {target: onnx.load(folder / f"exact-{target}" / MODEL, load_external_data=False).graph
              for target in ("cpu", "cuda", "directml")}  # fmt: skip
    for target, graph in graphs.items():
        attention = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
        assert {len(node.input) for node in attention} == {17 if target == "cpu" else 9}
        assert ("query_seqlens" in [value.name for value in graph.input]) == (target == "cpu")
    kinds = Counter(node.op_type for node in graphs["directml"].node)
    assert "GatherBlockQuantized" not in kinds
    assert {len(node.input) for node in graphs["directml"].node if node.op_type == "MatMulNBits"} == {3}
    assert "GatherBlockQuantized" in {node.op_type for node in graphs["cuda"].node}


@pytest.mark.parametrize(("recipe", "kv"), [("int8-rotated", "f32"), ("exact", "q8_0")])
def test_what_a_provider_has_no_kernels_for_is_refused(tmp_path: Path, recipe: str, kv: str) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(UnsupportedModel, match=f"recipe {recipe} with KV cache {kv} for cuda"):
        convert(source, tmp_path / "bundle", recipe, kv=kv, target="cuda")
    with pytest.raises(UnsupportedModel, match="target 'tpu'"):
        convert(source, tmp_path / "bundle", target="tpu")
