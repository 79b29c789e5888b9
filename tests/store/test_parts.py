"""Networks of several files: Hugging Face folders and split GGUF files, from create to deletion."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from appliance.core import CreateRequest
from appliance.errors import InvalidRequest, ModelFileError, NotSafetensors, UnsupportedModel
from appliance.store.hugging_face import RANK, folder_files
from appliance.store.manifests import LAYER_TYPE, Layer
from appliance.store.parts import combined, folder_layer, parts_of
from appliance.store.store import Store
from tests.store.conftest import JINJA, add_file, run_create
from tests.store.creating import draft_of
from tests.tiny_folder import tiny_weights, write_tiny_folder
from tests.tiny_model import CHAT_TEMPLATE


def upload(store: Store, folder: Path) -> dict[str, str]:
    return {name: add_file(store, path) for name, path in folder_files(folder).items()}


def write_split(folder: Path, parts: int = 3, total: int | None = None, **metadata: Any) -> list[Path]:
    """A GGUF of three tensors in so many files, as gguf-split writes it."""
    paths = []
    for number in range(parts):
        path = folder / f"tiny-{number + 1:05}-of-{parts:05}.gguf"
        writer = gguf.GGUFWriter(path, "llama") if number == 0 else gguf.GGUFWriter(path, "")
        if number == 0:
            writer.add_context_length(256)
            writer.add_embedding_length(4)
            writer.add_file_type(1)
            writer.add_chat_template(JINJA)
        else:
            writer.kv_data[0].clear()  # later parts say nothing of the model
        writer.add_uint16("split.no", metadata.get("no", number))
        writer.add_uint16("split.count", metadata.get("count", parts))
        writer.add_int32("split.tensors.count", parts if total is None else total)
        writer.add_tensor(f"blk.{metadata.get('layer', number)}.ffn_up.weight", np.full((8, 4), number, np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        paths.append(path)
    return paths


def test_a_folder_becomes_layers(store: Store, tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "hf", dtype="BF16", shards=2)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    files = upload(store, folder)
    statuses = run_create(store, CreateRequest("m", files=files, system="Be kind."))
    assert statuses[-2:] == ["writing manifest", "success"]
    model = store.model("m")
    layers = {layer.name: layer for layer in model.manifest.layers if layer.name}
    assert {name: layer.digest for name, layer in layers.items()} == files
    assert {name: layer.kind for name, layer in layers.items()} == {
        "config.json": "json",
        "model-00001-of-00002.safetensors": "tensor",
        "model-00002-of-00002.safetensors": "tensor",
        "model.safetensors.index.json": "json",
        "tokenizer.json": "json",
        "tokenizer_config.json": "json",
        "chat_template.jinja": "file",
    }
    model.require_runnable()
    assert model.chat_template == "{{ messages }}"


def test_what_is_told_of_a_folder(store: Store, tmp_path: Path) -> None:
    run_create(store, CreateRequest("m", files=upload(store, write_tiny_folder(tmp_path / "hf", dtype="BF16"))))
    (row,) = store.summaries()
    weights = sum(array.size for array in tiny_weights().values())
    assert (row.facts.format, row.facts.family, row.facts.families) == ("safetensors", "llama", ("llama",))
    assert (row.facts.quantization_level, row.facts.parameter_size) == ("BF16", f"{weights / 1000:.0f}K")
    assert (row.facts.context_length, row.facts.embedding_length) == (512, 64)
    assert row.capabilities == ("completion",)
    shown = store.model("m").details()
    assert shown.model_info["general.architecture"] == "llama"
    assert shown.model_info["general.parameter_count"] == weights
    assert shown.model_info["llama.context_length"] == 512
    assert shown.model_info["llama.embedding_length"] == 64
    assert {"name": "lm_head.weight", "type": "BF16", "shape": [64, 267]} in shown.tensors
    assert shown.modelfile.splitlines()[4] == "FROM m:latest"
    assert shown.template == CHAT_TEMPLATE
    config = store.blobs.read(store.model("m").manifest.config.digest)
    assert json.loads(config)["model_format"] == "safetensors"


def test_the_digest_of_parts_is_that_of_their_checksums(store: Store, tmp_path: Path) -> None:
    files = upload(store, write_tiny_folder(tmp_path / "hf"))
    run_create(store, CreateRequest("m", files=files))
    listing = "".join(f"{digest.removeprefix('sha256:')}  {name}\n" for name, digest in sorted(files.items()))
    digest = f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"
    assert store.model("m").model_digest == digest == combined(files)


def test_the_folder_for_the_converter(store: Store, tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "hf")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    run_create(store, CreateRequest("m", files=upload(store, folder)))
    model = store.model("m")
    source = model.source()
    assert source == model.source()
    assert source.name == model.model_digest.replace(":", "-")
    assert source.is_relative_to(store.derived)
    assert {name: path.read_bytes() for name, path in folder_files(source).items()} == {
        name: path.read_bytes() for name, path in folder_files(folder).items()
    }
    moved = store.root.rename(tmp_path / "elsewhere")
    assert all(path.is_file() for path in (moved / source.relative_to(store.root)).iterdir() if path.suffix)


def test_bundles_live_as_long_as_any_model_of_the_parts(store: Store, tmp_path: Path) -> None:
    run_create(store, CreateRequest("m", files=upload(store, write_tiny_folder(tmp_path / "hf"))))
    run_create(store, CreateRequest("child", source="m", system="x"))
    assert store.model("child").model_digest == store.model("m").model_digest
    bundle = store.model("m").bundle_path("exact")
    source = store.model("m").source()
    bundle.mkdir(parents=True)
    store.copy("child", "copied")
    store.delete("m")
    store.delete("child")
    Store(store.root).prune()
    assert bundle.is_dir()
    assert source.is_dir()
    store.delete("copied")
    assert not bundle.parent.exists()
    assert list(store.blobs.digests()) == []


def test_a_draft_keeps_its_bundle(store: Store, tmp_path: Path) -> None:
    draft = draft_of(store, CreateRequest("m", files=upload(store, write_tiny_folder(tmp_path / "hf"))))
    source = draft.network.source(store.blobs, store.derived)
    store.prune()
    assert len(folder_files(source)) == 4
    del draft
    store.prune()
    assert not source.exists()


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda files: files.pop("config.json"), ModelFileError, "the model has no config.json"),
        (lambda files: files.pop("model-00002-of-00002.safetensors"), ModelFileError,
         "'model-00002-of-00002.safetensors', which model.safetensors.index.json names, is missing"),
        (lambda files: files.pop("model.safetensors.index.json"), ModelFileError,
         "2 safetensors files and no model.safetensors.index.json"),
        (lambda files: files.update({"config.json": files["tokenizer.json"]}), None, ""),
        (lambda files: files.update({"config.json": files["model-00001-of-00002.safetensors"]}), ModelFileError,
         "config.json is damaged"),
        (lambda files: files.update({"model-00002-of-00002.safetensors": files["config.json"]}), NotSafetensors,
         "not a safetensors file"),
    ],
)  # fmt: skip
def test_folders_that_are_not_whole(
    store: Store, tmp_path: Path, change: Callable[[dict[str, str]], None], kind: type[Exception] | None, message: str
) -> None:
    files = upload(store, write_tiny_folder(tmp_path / "hf", shards=2))
    change(files)
    if kind is None:  # a configuration without a model_type: for the converters to refuse
        assert draft_of(store, CreateRequest("m", files=files)).config["model_family"] == ""
        return
    with pytest.raises(kind, match=message):
        draft_of(store, CreateRequest("m", files=files))


def test_modules_of_sentence_transformers(store: Store, tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "hf")
    modules = [{"path": "", "type": "sentence_transformers.models.Transformer"},
               {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
               {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 64, "pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    run_create(store, CreateRequest("m", files=upload(store, folder)))
    assert store.model("m").capabilities() == ("embedding",)
    assert store.model("m").details().model_info["llama.pooling_type"] == 3
    pooling["pooling_mode_mean_tokens"] = True
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    with pytest.raises(UnsupportedModel, match="pooling by pooling_mode_lasttoken, pooling_mode_mean_tokens"):
        draft_of(store, CreateRequest("m", files=upload(store, folder)))
    modules[2]["type"] = "sentence_transformers.models.Dense"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    with pytest.raises(UnsupportedModel, match="the module 'Dense'"):
        draft_of(store, CreateRequest("m", files=upload(store, folder)))


def test_a_model_that_classifies_ranks(store: Store, tmp_path: Path) -> None:
    config = {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}
    files = upload(store, write_tiny_folder(tmp_path / "hf", config=config))
    run_create(store, CreateRequest("m", files=files))
    info = store.model("m").details().model_info
    assert (info["general.architecture"], info["bert.pooling_type"]) == ("bert", RANK)


def test_a_split_gguf(store: Store, tmp_path: Path) -> None:
    digests = [add_file(store, path) for path in write_split(tmp_path)]
    statuses = run_create(store, CreateRequest("m", files=dict(zip("cab", digests, strict=True))))
    assert statuses.count("parsing GGUF") == 3
    model = store.model("m")
    assert [(layer.kind, layer.name, layer.digest) for layer in model.manifest.layers] == [
        ("model", f"{number + 1:05}-of-00003.gguf", digest) for number, digest in enumerate(digests)
    ]
    model.require_runnable()
    assert (model.facts().format, model.facts().family, model.facts().parameter_size) == ("gguf", "llama", "96")
    assert model.facts().context_length == 256
    assert model.chat_template == JINJA
    assert [tensor["name"] for tensor in model.details().tensors] == [f"blk.{n}.ffn_up.weight" for n in range(3)]
    assert sorted(path.name for path in model.source().iterdir()) == [f"{n}-of-00003.gguf" for n in
                                                                      ("00001", "00002", "00003")]  # fmt: skip
    run_create(store, CreateRequest("again", files=dict(zip("xyz", digests, strict=True))))
    assert store.model("again").model_digest == model.model_digest


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ((0, 2), "part 2 of 3 of the split model is missing"),
        ((0,), "part 2 of 3 of the split model is missing"),
        ((1, 2), "part 1 of 3 of the split model is missing"),
    ],
)
def test_a_part_is_missing(store: Store, tmp_path: Path, kept: tuple[int, ...], message: str) -> None:
    paths = write_split(tmp_path)
    with pytest.raises(ModelFileError, match=message):
        draft_of(store, CreateRequest("m", files={paths[index].name: add_file(store, paths[index]) for index in kept}))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"total": 4}, "have 3 different tensors of 3, not 4"),
        ({"layer": 0}, "have 1 different tensors of 3, not 3"),
        ({"no": 0}, "part 1 of 3 of the split model is given twice"),
        ({"count": 2}, "part 2 of 2"),
    ],
)
def test_parts_that_do_not_fit(store: Store, tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    files = {path.name: add_file(store, path) for path in write_split(tmp_path, **metadata)}
    with pytest.raises(ModelFileError, match=message):
        draft_of(store, CreateRequest("m", files=files))


def test_parts_of_two_models(store: Store, tmp_path: Path, create: Callable[..., Any]) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    mine, other = write_split(tmp_path / "a"), write_split(tmp_path / "b", 2)
    files = {str(index): add_file(store, path) for index, path in enumerate([mine[0], other[1], mine[2]])}
    with pytest.raises(ModelFileError, match="the parts belong to different split models"):
        draft_of(store, CreateRequest("m", files=files))
    create("whole")
    whole = store.model("whole").model_digest
    with pytest.raises(ModelFileError, match="no part of a split model, among parts of one"):
        draft_of(
            store, CreateRequest("m", files={path.name: add_file(store, path) for path in mine} | {"whole.gguf": whole})
        )


@pytest.mark.parametrize("name", ["", "../x.safetensors", "/x.safetensors", "a/./x.safetensors", "x\0.safetensors"])
def test_names_that_lead_out_of_the_folder(name: str) -> None:
    weights = Layer(f"{LAYER_TYPE}tensor", f"sha256:{'0' * 64}", 1, name=name)
    assert parts_of([weights, folder_layer("config.json", f"sha256:{'1' * 64}", 1)]) is None


def test_tensor_layers_of_ollama_are_no_folder(store: Store, create: Callable[..., Any]) -> None:
    create("m")
    digest = store.model("m").model_digest
    layers = [Layer(f"{LAYER_TYPE}tensor", digest, 1, name="model.norm.weight"), folder_layer("config.json", digest, 1)]
    store.publish(store.model("m").name, layers, b"{}\n")
    assert parts_of(layers) is None
    with pytest.raises(UnsupportedModel, match="a layer of the kind tensor"):
        store.model("m").require_runnable()
    with pytest.raises(InvalidRequest, match="models with tensor layers are not supported yet"):
        draft_of(store, CreateRequest("m", source="m"))
    (row,) = store.summaries()
    assert row.facts.family == ""
