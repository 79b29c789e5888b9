"""Creating models: layers, merging, statuses."""

from __future__ import annotations

import hashlib
import json

import pytest

from appliance.core import CreateRequest, Message, Progress
from appliance.store.manifests import Layer
from appliance.store.names import parse_name
from appliance.store.store import Store
from tests.store.conftest import JINJA, add_file, run_create
from tests.store.creating import IMAGE, Create, MakeGGUF, draft_of, kinds


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
