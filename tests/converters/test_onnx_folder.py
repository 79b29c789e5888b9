"""Folders with ONNX graphs: what their bundles say, and what is refused, by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from appliance.bundle import CHAT_TEMPLATE, MODEL, TOKENIZER, WEIGHTS, read_description
from appliance.errors import ConversionFailed, ModelFileError, UnsupportedModel
from converters.bundle import convert
from tests.foreign_model import write_genai_folder
from tests.tiny_model import tiny_tokens


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("genai")
    write_genai_folder(folder / "genai", folder / "ours")
    return folder / "genai"


@pytest.fixture
def source(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(original, tmp_path / "genai"))


def change(source: Path, alter: object) -> None:
    """Load the graph, have `alter` change it, save it."""
    model = ir.load(source / MODEL)
    assert callable(alter)
    alter(model.graph)
    ir.save(model, source / MODEL, external_data=WEIGHTS)


def test_the_bundle_says_what_the_folder_says(source: Path, tmp_path: Path) -> None:
    bundle = convert(source, tmp_path / "bundle")
    assert bundle == read_description(tmp_path / "bundle")
    assert (bundle.architecture, bundle.kind, bundle.graph, bundle.recipe) == ("llama", "decoder", "shared", "as-is")
    assert (bundle.layers, bundle.kv_heads, bundle.head_dim, bundle.hidden_size) == (2, 2, 16, 64)
    assert (bundle.vocab_size, bundle.context_length) == (len(tiny_tokens()), 512)
    assert (bundle.bos_token, bundle.eos_tokens, bundle.add_bos) == (264, (266,), False)
    assert bundle.kv_dtype == "float32"


def test_graph_weights_and_tokenizer_stay_as_they_are(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "bundle")
    for name in (MODEL, WEIGHTS, TOKENIZER, CHAT_TEMPLATE):
        assert (tmp_path / "bundle" / name).read_bytes() == (source / name).read_bytes()
        assert (tmp_path / "bundle" / name).stat().st_nlink == 1  # a file that somebody may edit is copied


def test_a_blob_of_a_store_is_not_copied(source: Path, tmp_path: Path) -> None:
    blob = tmp_path / f"sha256-{'a' * 64}"
    (source / WEIGHTS).rename(blob)
    (source / WEIGHTS).symlink_to(blob)
    convert(source, tmp_path / "bundle")
    assert (tmp_path / "bundle" / WEIGHTS).stat().st_ino == blob.stat().st_ino


def test_a_tokenizer_that_begins_texts_with_bos_says_so(source: Path, tmp_path: Path) -> None:
    tokenizer = json.loads((source / TOKENIZER).read_text())
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "B", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"B": {"id": "B", "ids": [264], "tokens": ["<|endoftext|>"]}},
    }
    (source / TOKENIZER).write_text(json.dumps(tokenizer))
    assert convert(source, tmp_path / "bundle").add_bos


def test_a_damaged_tokenizer_is_named(source: Path, tmp_path: Path) -> None:
    (source / TOKENIZER).write_text("{")
    with pytest.raises(ModelFileError, match=r"^tokenizer\.json is damaged"):
        convert(source, tmp_path / "bundle")


@pytest.mark.parametrize(
    ("missing", "said"), [(TOKENIZER, "no tokenizer.json"), (WEIGHTS, "weights of model.onnx, is missing")]
)
def test_a_file_that_is_missing_is_named(source: Path, tmp_path: Path, missing: str, said: str) -> None:
    (source / missing).unlink()
    with pytest.raises(ModelFileError, match=said):
        convert(source, tmp_path / "bundle")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("bundle")]


def test_a_context_length_that_nobody_says_is_an_error(source: Path, tmp_path: Path) -> None:
    config = json.loads((source / "genai_config.json").read_text())
    del config["model"]["context_length"]
    (source / "genai_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match="max_position_embeddings"):
        convert(source, tmp_path / "bundle")


def test_an_input_that_is_not_known_is_refused_by_name(source: Path, tmp_path: Path) -> None:
    def alter(graph: ir.Graph) -> None:
        shape = ir.Shape(("B", 1))
        graph.inputs.append(ir.Value(name="image_features", shape=shape, type=ir.TensorType(ir.DataType.FLOAT)))

    change(source, alter)
    with pytest.raises(UnsupportedModel, match="image_features"):
        convert(source, tmp_path / "bundle")


def test_a_graph_without_a_cache_is_refused(source: Path, tmp_path: Path) -> None:
    def alter(graph: ir.Graph) -> None:
        for value in [value for value in graph.inputs if str(value.name).startswith("past")]:
            graph.inputs.remove(value)

    change(source, alter)
    with pytest.raises(UnsupportedModel, match="without a cache"):
        convert(source, tmp_path / "bundle")


def test_a_graph_that_ignores_its_cache_is_refused(source: Path, tmp_path: Path) -> None:
    """The contract is fine, but what it computes does not go on from the past."""

    def alter(graph: ir.Graph) -> None:
        inputs = {value.name: value for value in graph.inputs}
        past = inputs["past_key_values.0.key"]
        wrong = ir.node("Mul", [past, graph.initializers["zero"]])
        wrong.outputs[0].name = "forgotten"
        for node, place in list(past.uses()):
            if node is not wrong:
                node.replace_input_with(place, wrong.outputs[0])
        graph.insert_before(graph[0], wrong)

    def with_zero(graph: ir.Graph) -> None:
        zero = ir.Value(name="zero", const_value=ir.tensor(np.array(0, np.float32), name="zero"))
        graph.register_initializer(zero)
        alter(graph)

    change(source, with_zero)
    with pytest.raises(ModelFileError, match="does not continue from its own cache"):
        convert(source, tmp_path / "bundle")


@pytest.mark.parametrize(("recipe", "kv"), [("q4", "f32"), ("fp32", "f32"), ("exact", "q8_0")])
def test_recipes_that_would_change_the_graph_are_refused(source: Path, tmp_path: Path, recipe: str, kv: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"recipe {recipe} with KV cache {kv}"):
        convert(source, tmp_path / "bundle", recipe, kv=kv)


def test_several_graphs_without_a_name_that_tells_are_refused(source: Path, tmp_path: Path) -> None:
    config = json.loads((source / "genai_config.json").read_text())
    del config["model"]["decoder"]["filename"]
    (source / "genai_config.json").write_text(json.dumps(config))
    (source / MODEL).rename(source / "decoder.onnx")
    shutil.copy(source / "decoder.onnx", source / "prefill.onnx")
    with pytest.raises(UnsupportedModel, match=r"decoder\.onnx, prefill\.onnx"):
        convert(source, tmp_path / "bundle")


def test_nothing_is_replaced(source: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(ConversionFailed, match="exists already"):
        convert(source, tmp_path / "bundle")


def test_a_graph_that_onnx_cannot_read_is_an_error_without_paths(source: Path, tmp_path: Path) -> None:
    (source / MODEL).write_bytes(b"no graph at all")
    with pytest.raises(ModelFileError, match="no ONNX model") as caught:
        convert(source, tmp_path / "bundle")
    assert str(tmp_path) not in str(caught.value)
