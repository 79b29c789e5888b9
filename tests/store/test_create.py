"""Creating models: layers, merging, statuses, errors."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.core import CreateRequest, Message, Progress
from appliance.errors import (
    ApplianceError,
    BlobNotFound,
    Forbidden,
    InvalidName,
    InvalidOption,
    InvalidRequest,
    ModelFileError,
    ModelNotFound,
    NotEnoughDisk,
    NotQuantized,
    TruncatedGGUF,
)
from appliance.store.create import Draft, assemble, commit
from appliance.store.manifests import Layer
from appliance.store.names import parse_name
from appliance.store.store import Store
from tests.store.conftest import JINJA, add_file, run_create

Create = Callable[..., list[str]]
MakeGGUF = Callable[..., Path]
IMAGE = "application/vnd.ollama.image."


def kinds(store: Store, name: str) -> list[str]:
    return list(store.model(name).kinds)


def draft_of(store: Store, request: CreateRequest) -> Draft:
    assembling = assemble(store, request)
    while True:
        try:
            next(assembling)
        except StopIteration as end:
            draft: Draft = end.value
            return draft


def files_in(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


@pytest.mark.spec(8, 56)
def test_from_a_gguf(store: Store, make_gguf: MakeGGUF) -> None:
    digest = add_file(store, make_gguf())
    statuses = run_create(store, CreateRequest("t-bone", files={"tiny.gguf": digest}))
    assert statuses == ["parsing GGUF", f"using existing layer {digest}", "writing manifest", "success"]
    config = (
        b'{"model_format":"gguf","model_family":"llama","model_families":["llama"],"model_type":"36",'
        b'"file_type":"F16","architecture":"amd64","os":"linux"}\n'
    )
    config_hex = hashlib.sha256(config).hexdigest()
    size = store.blobs.path(digest).stat().st_size
    manifest = (
        '{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",'
        '"config":{"mediaType":"application/vnd.docker.container.image.v1+json",'
        f'"digest":"sha256:{config_hex}","size":{len(config)}}},'
        f'"layers":[{{"mediaType":"application/vnd.ollama.image.model","digest":"{digest}","size":{size}}}]}}\n'
    ).encode()
    path = store.root / "manifests/registry.ollama.ai/library/t-bone/latest"
    assert path.read_bytes() == manifest
    assert {entry.name for entry in store.blobs.folder.iterdir()} == {
        f"sha256-{config_hex}", digest.replace(":", "-"),
    }  # fmt: skip
    (row,) = store.summaries()
    assert (row.name, row.digest) == ("t-bone:latest", hashlib.sha256(manifest).hexdigest())
    assert row.size == size + len(config)


@pytest.mark.spec(56)
def test_from_an_installed_model(store: Store, create: Create) -> None:
    create("base", template="{{ .Prompt }}", licenses=("MIT",))
    base = store.model("base").manifest.layers
    statuses = create("child", source="BASE", system="Be kind.")
    system = hashlib.sha256(b"Be kind.").hexdigest()
    assert statuses == [
        *(f"using existing layer {layer.digest}" for layer in base),
        f"creating new layer sha256:{system}",
        "writing manifest",
        "success",
    ]
    child = store.model("child").manifest.layers
    assert [layer.digest for layer in child[:3]] == [layer.digest for layer in base]
    assert [layer.source for layer in child] == ["base:latest"] * 3 + [""]
    assert kinds(store, "child") == ["model", "template", "license", "system"]


def test_a_source_wins_over_files(store: Store, create: Create) -> None:
    create("base", system="x")
    create("child", source="base", files={"a.gguf": f"sha256:{'0' * 64}"})
    assert store.model("child").system == "x"


@pytest.mark.spec(63)
def test_the_layers_texts_are_plain_and_json_is_go_s(store: Store, create: Create) -> None:
    create(
        "m",
        template="{{ .Prompt }}\n",
        system="<s>",
        licenses=("one", "", "two"),
        parameters={"top_k": 10.0, "stop": ["<|x|>"], "temperature": 0.7, "use_mmap": True, "seed": None},
        messages=(Message("user", "a & b"), Message("tool", "", thinking="t", images=(b"\x00",), tool_name="f")),
    )
    model = store.model("m")
    assert kinds(store, "m") == ["model", "template", "system", "license", "license", "params", "messages"]
    raw = [store.blobs.read(layer.digest) for layer in model.manifest.layers[1:]]
    assert raw == [
        b"{{ .Prompt }}\n",
        b"<s>",
        b"one",
        b"two",
        b'{"stop":["\\u003c|x|\\u003e"],"temperature":0.7,"top_k":10,"use_mmap":true}\n',
        b'[{"role":"user","content":"a \\u0026 b"},'
        b'{"role":"tool","content":"","thinking":"t","images":["AA=="],"tool_name":"f"}]\n',
    ]
    assert model.messages[1].images == (b"\x00",)


@pytest.mark.spec(60)
def test_parameters_merge_by_key(store: Store, create: Create) -> None:
    create("base", parameters={"temperature": 1, "top_k": 10, "stop": ["USER:", "ASSISTANT:"]})
    create("child", source="base", parameters={"temperature": 0.6, "top_p": 0.7})
    assert store.model("child").parameters == {
        "temperature": 0.6, "top_p": 0.7, "top_k": 10, "stop": ["USER:", "ASSISTANT:"],
    }  # fmt: skip
    create("child", source="child", parameters={"stop": ["<end>"]})
    assert store.model("child").parameters["stop"] == ["<end>"]
    create("same", source="base", system="x")
    assert store.model("same").layers("params")[0].digest == store.model("base").layers("params")[0].digest


@pytest.mark.spec(61)
def test_texts_replace_and_licences_append(store: Store, create: Create) -> None:
    create("base", template="old", system="old", licenses=("one",), messages=(Message("user", "old"),) * 2)
    create("child", source="base", template="new", system="new", licenses=("two",), messages=(Message("user", "new"),))
    child = store.model("child")
    assert (child.template, child.system, child.licenses) == ("new", "new", ("one", "two"))
    assert child.messages == (Message("user", "new"),)
    create("heir", source="child", system="")
    heir = store.model("heir")
    assert (heir.template, heir.system, heir.licenses) == ("new", "new", ("one", "two"))


def test_the_old_alias_of_template_is_replaced(store: Store, create: Create) -> None:
    create("old")
    model = store.model("old")
    store.blobs.add(b"alias")
    alias = Layer(IMAGE + "prompt", f"sha256:{hashlib.sha256(b'alias').hexdigest()}", 5)
    config = b'{"model_format":"gguf"}\n'
    store.publish(model.name, [*model.manifest.layers, alias], config)
    assert store.model("old").template == "alias"
    create("new", source="old", template="new")
    assert kinds(store, "new") == ["model", "template"]


@pytest.mark.spec(58, 59)
def test_creating_again_clears_away_the_old(store: Store, create: Create) -> None:
    create("m", template="one")
    create("m", source="m", template="two")
    assert len(list(store.blobs.digests())) == 3
    assert store.model("m").template == "two"
    create("m", {"llama__block_count": 3}, system="")
    assert kinds(store, "m") == ["model"]
    assert len(list(store.blobs.digests())) == 2


def test_noprune_keeps_the_old(store: Store, create: Create) -> None:
    create("m", template="one")
    keeping = Store(store.root, noprune=True)
    run_create(keeping, CreateRequest("m", source="m", template="two"))
    assert len(list(keeping.blobs.digests())) == 4


@pytest.mark.spec(66)
def test_renderer_and_kin_are_inherited(store: Store, create: Create) -> None:
    create("base", renderer="r", parser="p", requires="0.14.0", info={"capabilities": ["tools"]})
    create("child", source="base", parser="q")
    config = store.model("child").config
    assert list(config) == [
        "model_format", "model_family", "model_families", "model_type", "file_type", "renderer", "parser",
        "requires", "capabilities", "architecture", "os",
    ]  # fmt: skip
    assert (config["renderer"], config["parser"], config["requires"]) == ("r", "q", "0.14.0")
    assert store.model("child").capabilities() == ("tools", "completion")


def test_info_overrides(store: Store, create: Create) -> None:
    info = {
        "model_family": "mine", "base_name": "b", "quantization_level": "Q9", "parameter_size": "9T",
        "context_length": 4096.0, "embedding_length": 64, "capabilities": ["vision"],
    }  # fmt: skip
    create("m", info=info)
    facts = store.model("m").facts()
    assert (facts.family, facts.families, facts.quantization_level) == ("mine", ("mine", "llama"), "Q9")
    assert (facts.parameter_size, facts.context_length, facts.embedding_length) == ("9T", 4096, 64)
    assert store.model("m").config["base_name"] == "b"
    assert store.model("m").capabilities() == ("vision", "completion")


@pytest.mark.spec(65)
@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"model_family": 3}, 'info field "model_family" must be a string'),
        ({"parameter_size": None}, 'info field "parameter_size" must be a string'),
        ({"context_length": "x"}, 'info field "context_length" must be a number'),
        ({"context_length": True}, 'info field "context_length" must be a number'),
        ({"context_length": 1.5}, 'info field "context_length" must be a non-negative integer'),
        ({"embedding_length": -1}, 'info field "embedding_length" must be a non-negative integer'),
        ({"embedding_length": float("nan")}, 'info field "embedding_length" must be a non-negative integer'),
        ({"capabilities": "tools"}, 'info field "capabilities" must be an array of strings'),
        ({"colour": "red"}, 'info field "colour" is not known'),
    ],
)
def test_info_errors(create: Create, info: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        create("m", info=info)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"num_ctx": "4096"}, 'option "num_ctx" must be of type integer'),
        ({"num_ctx": True}, 'option "num_ctx" must be of type integer'),
        ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
        ({"stop": "x"}, 'option "stop" must be of type array'),
        ({"stop": ["x", 1]}, 'option "stop" must be of an array of strings'),
        ({"nope": 1}, "unknown parameter 'nope'"),
        (
            {"recipe": "best"},
            "option \"recipe\" must be one of auto, exact, compact, int8-rotated, q4, int8, fp32, not 'best'",
        ),
        ({"kv_cache_type": 8}, "option \"kv_cache_type\" must be one of f32, q8_0, not '8'"),
    ],
)
def test_parameter_errors(create: Create, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        create("m", parameters=parameters)
    assert str(caught.value) == message


def test_how_a_model_is_converted_is_inherited_like_other_parameters(store: Store, create: Create) -> None:
    create("base", parameters={"recipe": "q4", "kv_cache_type": "q8_0"})
    create("child", source="base", parameters={"recipe": "exact"})
    assert store.model("child").parameters == {"recipe": "exact", "kv_cache_type": "q8_0"}
    shown = store.model("child").details()
    assert 'recipe                         "exact"' in shown.parameters
    assert "PARAMETER kv_cache_type q8_0" in shown.modelfile


def test_deprecated_parameters_are_named_and_left_out(store: Store, create: Create) -> None:
    statuses = create("m", parameters={"mirostat": 1, "seed": 7})
    assert "warning: parameter mirostat is deprecated" in statuses
    assert store.model("m").parameters == {"seed": 7}


@pytest.mark.spec(57)
@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"model": ""}, InvalidName, "invalid model name"),
        ({"model": "../x"}, InvalidName, "invalid model name"),
        ({"files": {}}, InvalidRequest, "neither 'from' or 'files' was specified"),
        ({"source": "nope"}, ModelNotFound, "model 'nope:latest' not found"),
        ({"source": "n o"}, InvalidName, "invalid model name"),
        ({"source": "x:cloud"}, Forbidden, "ollama cloud is disabled: remote model is unavailable"),
        ({"files": {"a.gguf": ""}}, InvalidRequest, "invalid digest format"),
        ({"adapters": {"a.gguf": ""}}, InvalidRequest, "invalid digest format"),
        ({"files": {"a.gguf": "sha256:1"}}, InvalidRequest, "invalid digest format"),
        ({"files": {"a.gguf": f"sha256:{'0' * 64}"}}, BlobNotFound, f'blob "sha256:{"0" * 64}" not found'),
    ],
)
def test_request_errors(store: Store, fields: dict[str, Any], kind: type[ApplianceError], message: str) -> None:
    with pytest.raises(kind) as caught:
        draft_of(store, CreateRequest(**({"model": "m"} | fields)))
    assert str(caught.value) == message


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x.gguf", "a/../x.gguf", "./x.gguf", "a//x.gguf", "a/.", "."])
def test_file_paths_must_be_relative(store: Store, create: Create, make_gguf: MakeGGUF, path: str) -> None:
    digest = add_file(store, make_gguf())
    for request in (CreateRequest("m", files={path: digest}), CreateRequest("m", adapters={path: digest})):
        with pytest.raises(InvalidRequest, match=r"^file path must be relative$"):
            draft_of(store, request)


@pytest.mark.spec(68)
@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("m.bin", b"XXXX", "unknown type"),
        ("m.bin", b"", "unknown type"),
        ("m.gguf", b"XXXXXXXX", "supplied file was not in GGUF format"),
        ("m.gguf", b"GG", "supplied file was not in GGUF format"),
    ],
)
def test_files_that_are_no_gguf(store: Store, path: str, content: bytes, message: str) -> None:
    store.blobs.add(content)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    with pytest.raises(InvalidRequest) as caught:
        draft_of(store, CreateRequest("m", files={path: digest}))
    assert str(caught.value) == message


@pytest.mark.spec(68)
def test_the_magic_is_enough(store: Store, make_gguf: MakeGGUF) -> None:
    digest = add_file(store, make_gguf())
    run_create(store, CreateRequest("m", files={"folder/model": digest.replace(":", "-")}))
    assert store.model("m").model_digest == digest


def test_a_truncated_gguf(store: Store, make_gguf: MakeGGUF, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(make_gguf().read_bytes()[:-24])
    with pytest.raises(TruncatedGGUF):
        draft_of(store, CreateRequest("m", files={"cut.gguf": add_file(store, cut)}))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general__type": "adapter"}, "the file is an adapter, which needs a model: give it as one of the adapters"),
        ({"general__type": "mmproj"}, "projectors are not supported yet"),
        ({"architecture": "clip"}, "projectors are not supported yet"),
    ],
)
def test_parts_of_models(create: Create, metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        create("m", metadata)
    assert str(caught.value) == message


def test_two_models_at_once(store: Store, make_gguf: MakeGGUF) -> None:
    one, two = (add_file(store, make_gguf(llama__block_count=count)) for count in (1, 2))
    run_create(store, CreateRequest("same", files={"a.gguf": one, "b.gguf": one}))
    assert kinds(store, "same") == ["model"]
    with pytest.raises(InvalidRequest, match="only one model file is currently supported"):
        draft_of(store, CreateRequest("m", files={"a.gguf": one, "b.gguf": two}))


@pytest.mark.parametrize(
    ("file_type", "quantize", "kind", "message"),
    [
        (15, "Q8_0", NotQuantized, "quantization is only supported for F16, BF16 and F32 models"),
        (1, "q5_0", NotQuantized,
         "unsupported quantization type Q5_0 - supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0"),
    ],
)  # fmt: skip
def test_quantizations_that_are_refused(
    store: Store, create: Create, file_type: int, quantize: str, kind: type[ApplianceError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        create("m", {"file_type": file_type}, quantize=quantize)
    assert str(caught.value) == message
    create("m", {"file_type": file_type}, quantize={1: "f16", 15: "q4_k_m"}[file_type])


@pytest.mark.spec(111)
@pytest.mark.parametrize(
    ("asked", "recipe"),
    [("f32", "fp32"), ("bf16", "exact"), ("Q8_0", "exact"), ("q4_k_s", "q4"), ("Q4_K_M", "q4"), ("q4_K", "q4")],
)
def test_quantizing(store: Store, make_gguf: MakeGGUF, asked: str, recipe: str) -> None:
    digest = add_file(store, make_gguf())
    files = {"m.gguf": digest}
    draft = draft_of(store, CreateRequest("m", files=files, quantize=asked))
    assert draft.parameters["recipe"] == recipe
    told = draft.conversion(Progress("converting model", digest, total=9, completed=3))
    assert told == Progress(f"quantizing F16 model to {asked.upper()}", "0" * 19, total=9, completed=3)
    run_create(store, CreateRequest("m", files=files, quantize=asked))
    assert store.model("m").facts().quantization_level == asked.upper()
    run_create(store, CreateRequest("child", source="m", system="s"))
    child = store.model("child")
    assert (child.facts().quantization_level, child.parameters["recipe"]) == (asked.upper(), recipe)


def test_quantizing_twice(store: Store, create: Create) -> None:
    create("m", {"file_type": 0}, quantize="Q8_0")
    with pytest.raises(ModelFileError, match="only supported for F16, BF16 and F32 models"):
        run_create(store, CreateRequest("again", source="m", quantize="Q4_K_M"))


def test_quantizing_and_a_recipe(create: Create) -> None:
    create("m", {"file_type": 1}, quantize="Q4_K_M", parameters={"recipe": "q4"})
    with pytest.raises(InvalidRequest, match=r"^quantize Q4_K_M and the parameter recipe exact contradict each other"):
        create("m", {"file_type": 1}, quantize="Q4_K_M", parameters={"recipe": "exact"})


@pytest.mark.parametrize("kind", ["draft", "tensor", "json"])
def test_sources_with_parts_we_do_not_read(store: Store, create: Create, kind: str) -> None:
    create("base")
    base = store.model("base")
    store.publish(base.name, [*base.manifest.layers, Layer(IMAGE + kind, base.model_digest, 1)], b"{}\n")
    with pytest.raises(InvalidRequest, match=f"^models with {kind} layers are not supported yet$"):
        create("child", source="base")


def test_nothing_is_written_before_commit(store: Store, create: Create, make_gguf: MakeGGUF) -> None:
    create("old")
    digest = add_file(store, make_gguf(llama__block_count=7))
    before = files_in(store.root)
    draft = draft_of(store, CreateRequest("new", files={"m.gguf": digest}, system="secret", template="t"))
    assert draft.network.digest == digest
    assert files_in(store.root) == before
    steps = commit(store, draft)
    while next(steps).status != "writing manifest":
        assert [model.name.short for model in store.list()] == ["old:latest"]
    assert [progress.status for progress in steps] == ["success"]
    assert store.model("new").system == "secret"


def test_a_draft_keeps_its_blobs(store: Store, create: Create) -> None:
    create("base", system="x")
    draft = draft_of(store, CreateRequest("child", source="base", template="t"))
    store.delete("base")
    store.prune()
    list(commit(store, draft))
    assert store.model("child").system == "x"
    store.delete("child")  # the draft is still here, but done
    assert list(store.blobs.digests()) == []


def test_a_dropped_draft_s_blobs_are_pruned(store: Store, create: Create, make_gguf: MakeGGUF) -> None:
    create("keep")
    digest = add_file(store, make_gguf(llama__block_count=7))
    draft = draft_of(store, CreateRequest("child", files={"m.gguf": digest}, system="y"))
    steps = commit(store, draft)
    next(steps), next(steps)
    steps.close()
    del draft, steps
    gc.collect()
    store.prune()
    assert set(store.blobs.digests()) == store.model("keep").manifest.digests


def test_a_blob_that_vanished(store: Store, create: Create) -> None:
    create("base")
    draft = draft_of(store, CreateRequest("base", source="base", system="x"))
    store.blobs.remove(draft.network.digest)
    with pytest.raises(BlobNotFound):
        list(commit(store, draft))
    assert "system" not in kinds(store, "base")


def test_a_full_disk_changes_nothing(store: Store, create: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    create("m", system="old")
    draft = draft_of(store, CreateRequest("m", source="m", system="new"))
    usage = shutil.disk_usage(store.root)._replace(free=2)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(NotEnoughDisk):
        list(commit(store, draft))
    monkeypatch.undo()
    assert store.model("m").system == "old"
    assert not list(store.root.rglob("*.partial-*"))


def test_the_chat_template_is_not_copied_into_a_layer(store: Store, create: Create) -> None:
    create("m")
    assert kinds(store, "m") == ["model"]
    assert store.model("m").chat_template == JINJA
    assert not store.model("m").uses_go_template
    assert json.loads(store.manifests.read(parse_name("m")))["schemaVersion"] == 2


@pytest.mark.spec(55)
@pytest.mark.parametrize(("forced", "told"), [(True, True), (False, False), (None, True)])
def test_a_setting_says_which_template_builds_prompts(
    store: Store, create: Create, forced: bool | None, told: bool
) -> None:
    create("m", template="{{ .Tools }}{{ .Prompt }}")
    model = Store(store.root, noprune=True, go_template=forced).model(parse_name("m"))
    assert model.uses_go_template is told
    assert ("tools" in model.capabilities()) is told


@pytest.mark.spec(64)
@pytest.mark.parametrize(
    ("template", "name", "stops"),
    [
        ("<|im_start|>{{ role }} {{ content }}<|im_end|>", "chatml", ["<|im_start|>", "<|im_end|>"]),
        ("<|im_start|>{{ role }} {{ tools | tojson }}<|im_end|>", "chatml", ["<|im_start|>", "<|im_end|>"]),
        (
            "<|user|>{{ content }}<|end|><|assistant|>",
            "phi-3",
            ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"],
        ),
        (
            "<|user|>{{ content + eos_token }}<|assistant|>",
            "zephyr",
            ["<|system|>", "</s>", "<|user|>", "<|assistant|>"],
        ),
        (
            "<|start_header_id|>user<|end_header_id|>{{ content }}<|eot_id|>",
            "llama3-instruct",
            ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        ),
        ("<start_of_turn>{{ content }}<end_of_turn>", "gemma-instruct", ["<start_of_turn>", "<end_of_turn>"]),
        ("<start_of_turn><start_of_image>{{ content }}<end_of_turn>", "gemma3-instruct", ["<end_of_turn>"]),
        ("### Instruction:{{ content }}### Response:", "alpaca", ["### Instruction:", "### Response"]),
        ("[INST]<<SYS>>{{ content }}[/INST]", "llama2-chat", ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"]),
    ],
)
def test_a_known_chat_template_brings_its_stops(
    store: Store, create: Create, template: str, name: str, stops: list[str]
) -> None:
    statuses = create("m", {"template": template})
    assert statuses[:2] == ["parsing GGUF", f"using autodetected template {name}"]
    assert kinds(store, "m") == ["model", "params"]
    assert store.model("m").parameters == {"stop": stops}
    assert store.model("m").chat_template == template


@pytest.mark.spec(64)
@pytest.mark.parametrize("template", ["", JINJA, "[INST]{{ tools }}{{ content }}[/INST]", "user: {{ content }}"])
def test_other_chat_templates_bring_no_stops(store: Store, create: Create, template: str) -> None:
    create("m", {"template": template})
    assert kinds(store, "m") == ["model"]


def test_stops_of_the_request_or_of_the_child_win_over_the_templates(store: Store, create: Create) -> None:
    chatml = {"template": "<|im_start|>{{ content }}<|im_end|>"}
    create("m", chatml, parameters={"stop": ["END"]})
    assert store.model("m").parameters == {"stop": ["END"]}
    create("m", chatml, parameters={"top_k": 5})
    assert store.model("m").parameters == {"stop": ["<|im_start|>", "<|im_end|>"], "top_k": 5}
    create("child", source="m", parameters={"stop": ["END"]})
    assert store.model("child").parameters == {"stop": ["END"], "top_k": 5}
