"""What show and tags tell: capabilities, facts, texts, metadata."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.core import Message
from appliance.errors import BlobNotFound, CorruptManifest, UnsupportedModel
from appliance.store.blobs import digest_of
from appliance.store.capabilities import capabilities, uses_go_template
from appliance.store.details import human_count
from appliance.store.gguf_header import GGUFHeader, read_header
from appliance.store.manifests import Layer
from appliance.store.modelfile import parse_modelfile
from appliance.store.store import Store

Create = Callable[..., list[str]]
TOOLS = "{% if tools %}{{ tools }}{% endif %}"
THINK = "<think>{{ message.thinking }}</think>"
SPLIT = "{% set content = content.split('</think>')[-1] %}"
RETURNS = TOOLS + "{{ message.tool_calls }}{% if message.role == 'tool' %}x{% endif %}"
GO_TOOLS = "{{ if .Tools }}{{ .Tools }}{{ end }}{{ range .Messages }}{{ .ToolCalls }}{{ .Content }}{{ end }}"
GO_RETURNS = GO_TOOLS + '{{ if eq .Role "tool" }}{{ .Content }}{{ end }}'


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (36, "36"), (999, "999"), (1000, "1K"), (500_000, "500K"), (22_560_000, "22.56M"), (335_000_000, "335M"),
        (134_515_008, "134.52M"), (8_000_000_000, "8B"), (8_030_261_248, "8.0B"), (3_212_749_888, "3.2B"),
    ],
)  # fmt: skip
def test_human_counts(count: int, text: str) -> None:
    assert human_count(count) == text


@pytest.mark.spec(15)
@pytest.mark.parametrize(
    ("jinja", "go", "found"),
    [
        ("", "", ["completion"]),
        ("{{ messages }}", "", ["completion"]),
        (TOOLS, "", ["tools", "completion"]),
        ("tool_call", "", ["tools", "completion"]),
        (THINK, "", ["thinking", "completion"]),
        (SPLIT, "", ["thinking", "completion"]),
        (SPLIT + "reasoning_content", "", ["completion"]),
        (SPLIT + "<SPECIAL_12>", "", ["completion"]),
        (TOOLS + THINK, "", ["tools", "thinking", "completion"]),
        ("<|channel>thought <channel|>", "", ["thinking", "completion"]),
        ("[THINK]{{ thought }}[/THINK]", "", ["thinking", "completion"]),
        ("", "{{ .Prompt }}", ["completion"]),
        ("", GO_TOOLS, ["completion", "tools"]),
        ("", "{{ .Prompt }}{{ .Suffix }}", ["completion", "insert"]),
        ("", "{{ range .Messages }}{{- $.Tools }}<think>{{ .Thinking }}</think>{{ end }}",
         ["completion", "tools", "thinking"]),
        ("", '.Tools {{/* .Tools */}} {{ "x .Tools" }} {{ `.Tools` }} {{ .Prompt }}', ["completion"]),
        # the chat template does more than the Go template
        (TOOLS, "{{ .Prompt }}", ["tools", "completion"]),
        # as much, and only it renders the results of tools
        (RETURNS, GO_TOOLS, ["tools", "completion"]),
        # as much, and both render them, or neither
        (RETURNS, GO_RETURNS, ["completion", "tools"]),
        (TOOLS, GO_TOOLS, ["completion", "tools"]),
        # more, but the results would be lost
        (TOOLS + THINK, GO_RETURNS, ["completion", "tools"]),
        (RETURNS + THINK, GO_RETURNS, ["tools", "thinking", "completion"]),
    ],
)  # fmt: skip
def test_capabilities_of_templates(jinja: str, go: str, found: list[str]) -> None:
    metadata = {"general.architecture": "llama", "tokenizer.chat_template": jinja}
    assert list(capabilities(metadata, go)) == found
    assert uses_go_template(go, jinja) is (found.index("completion") == 0 and bool(go))


def test_capabilities_of_everything_else() -> None:
    bert = {"general.architecture": "bert", "bert.pooling_type": 1}
    assert capabilities(bert, "") == ("embedding",)
    assert capabilities(bert | {"bert.pooling_type": 4}, "") == ("rerank",)
    seeing = {"general.architecture": "x", "x.vision.block_count": 1, "x.audio.block_count": 1}
    assert capabilities(seeing, "", layers=("model", "projector")) == ("completion", "vision", "audio")
    assert capabilities({"general.architecture": "y"}, "", layers=("projector",)) == ("completion", "vision")
    assert capabilities({"general.architecture": "gptoss"}, "") == ("completion", "thinking")
    assert capabilities({"general.architecture": "w", "tokenizer.chat_template": None}, "") == ("completion",)
    assert capabilities({}, "", declared=["completion", "tools", "tools"]) == ("completion", "tools")
    assert capabilities({"general.architecture": "z"}, "", declared=["tools"]) == ("tools", "completion")


@pytest.mark.spec(10)
def test_show(store: Store, create: Create) -> None:
    create(
        "show-model",
        {"llama__attention__layer_norm_rms_epsilon": 1e-5, "tokenizer__ggml__tokens": ["t"] * 1024},
        template="{{ .System }} {{ .Prompt }}",
        system="Be\nkind.",
        licenses=("MIT", "Apache"),
        parameters={"stop": ["foo", "bar"], "seed": 42, "top_p": 0.9, "num_ctx": 1048576},
        messages=(Message("user", "hi"), Message("assistant", "ho")),
        requires="0.14.0",
    )
    model = store.model("show-model")
    shown = model.details()
    assert shown.parameters.split("\n") == [
        "num_ctx                        1.048576e+06",
        "seed                           42",
        'stop                           "foo"',
        'stop                           "bar"',
        "top_p                          0.9",
    ]
    assert shown.license == "MIT\nApache"
    assert shown.template == "{{ .System }} {{ .Prompt }}"
    assert shown.system == "Be\nkind."
    assert shown.messages == (Message("user", "hi"), Message("assistant", "ho"))
    assert shown.requires == "0.14.0"
    assert shown.modified_at == model.modified_at
    assert shown.capabilities == ("completion",)
    facts = shown.facts
    assert (facts.format, facts.family, facts.families) == ("gguf", "llama", ("llama",))
    assert (facts.parameter_size, facts.quantization_level) == ("36", "F16")
    assert (facts.context_length, facts.embedding_length) == (0, 0)
    assert shown.modelfile == (
        '# Modelfile generated by "ollama show"\n'
        "# To build a new Modelfile based on this, replace FROM with:\n"
        "# FROM show-model:latest\n\n"
        f"FROM {model.source()}\n"
        "TEMPLATE {{ .System }} {{ .Prompt }}\n"
        'SYSTEM "Be\nkind."\n'
        "PARAMETER num_ctx 1048576\n"
        "PARAMETER seed 42\n"
        "PARAMETER stop foo\n"
        "PARAMETER stop bar\n"
        "PARAMETER top_p 0.9\n"
        "LICENSE MIT\nLICENSE Apache\n"
        "MESSAGE user hi\nMESSAGE assistant ho\n"
    )
    assert parse_modelfile(shown.modelfile).parameters == model.parameters


def test_show_overrides(store: Store, create: Create) -> None:
    create("m", system="mine", parameters={"seed": 1, "top_k": 2})
    shown = store.model("m").details(system="yours", options={"seed": 3, "temperature": 0.5})
    assert shown.system == "yours"
    assert "SYSTEM yours\n" in shown.modelfile
    assert [line.split() for line in shown.parameters.split("\n")] == [
        ["seed", "3"], ["temperature", "0.5"], ["top_k", "2"],
    ]  # fmt: skip
    assert store.model("m").details().system == "mine"


def test_model_info(store: Store, create: Create) -> None:
    create(
        "m",
        {
            "llama__attention__layer_norm_rms_epsilon": 1e-5,
            "llama__rope__freq_base": float("inf"),
            "tokenizer__ggml__tokens": ["t"] * 1025,
            "tokenizer__ggml__scores": [0.1] * 1024,
        },
    )
    shown = store.model("m").details()
    info = dict(shown.model_info)
    assert info.pop("tokenizer.ggml.scores") == [0.1] * 1024
    assert info == {
        "general.architecture": "llama",
        "general.file_type": 1,
        "general.parameter_count": 36,
        "llama.context_length": 256,
        "llama.embedding_length": 4,
        "llama.attention.layer_norm_rms_epsilon": 1e-05,
        "llama.rope.freq_base": None,
        "tokenizer.ggml.tokens": None,
    }
    assert store.model("m").details(verbose=True).model_info["tokenizer.ggml.tokens"] == ["t"] * 1025
    assert shown.tensors == (
        {"name": "token_embd.weight", "type": "F16", "shape": [4, 8]},
        {"name": "output_norm.weight", "type": "F32", "shape": [4]},
    )


def test_a_declared_parameter_count_stands(store: Store, create: Create) -> None:
    create("m", {"general__parameter_count": 134_515_008})
    assert store.model("m").facts().parameter_size == "134.52M"
    assert store.model("m").details().model_info["general.parameter_count"] == 134_515_008


@pytest.mark.spec(15)
def test_templates_shown(store: Store, create: Create) -> None:
    create("jinja", {"template": RETURNS})
    shown = store.model("jinja").details()
    assert shown.template == RETURNS
    assert "TEMPLATE" not in shown.modelfile
    create("none", {"template": ""})
    assert store.model("none").details().template == "{{ .Prompt }}"
    create("weaker", {"template": RETURNS}, template="{{ .Prompt }}")
    assert store.model("weaker").details().template == RETURNS


def test_headers_are_parsed_once(store: Store, create: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    create("one")
    create("two", source="one", system="x")
    again = Store(store.root)
    parsed: list[Path] = []

    def counted(path: Path) -> GGUFHeader:
        parsed.append(path)
        return read_header(path)

    monkeypatch.setattr("appliance.store.headers.read_header", counted)
    for _ in range(3):
        assert len(again.summaries()) == 2
    assert parsed == [store.model("one").source()]


def test_what_cannot_run(store: Store, create: Create) -> None:
    create("m")
    model = store.model("m")
    model.require_runnable()
    draft = Layer("application/vnd.ollama.image.draft", model.model_digest, 1)
    store.publish(model.name, [*model.manifest.layers, draft], b"{}\n")
    with pytest.raises(UnsupportedModel, match="a layer of the kind draft"):
        store.model("m").require_runnable()
    store.publish(model.name, model.layers("license"), b"{}\n")
    with pytest.raises(UnsupportedModel, match="has no GGUF layer"):
        store.model("m").require_runnable()
    with pytest.raises(BlobNotFound):
        store.publish(model.name, model.manifest.layers, b"{}\n")  # its weights went with the old manifest


def test_a_config_of_wrong_types_says_nothing(store: Store, create: Create) -> None:
    create("m")
    model = store.model("m")
    facts = model.facts()
    config = (
        b'{"model_format":1,"model_family":["x"],"model_families":"abc","model_type":2,"file_type":{},'
        b'"context_length":"long","embedding_length":-1,"capabilities":[["tools"],"tools",3],"requires":null}'
    )
    store.publish(model.name, model.manifest.layers, config)
    assert store.model("m").facts() == facts
    assert store.model("m").capabilities() == ("tools", "completion")
    assert store.model("m").details().requires == ""


@pytest.mark.parametrize(
    "raw",
    [b"3", b"[3]", b'[{"images":["%"]}]', b'[{"images":3}]', b'[{"tool_calls":3}]', b'[{"tool_calls":[3]}]', b"["],
)
def test_damaged_messages(store: Store, create: Create, raw: bytes) -> None:
    create("m")
    add_messages(store, raw)
    with pytest.raises(CorruptManifest):
        _ = store.model("m").messages


def add_messages(store: Store, raw: bytes) -> None:
    model = store.model("m")
    store.blobs.add(raw)
    layer = Layer("application/vnd.ollama.image.messages", digest_of(raw), len(raw))
    store.publish(model.name, [*model.manifest.layers, layer], b"{}")


def test_tool_calls_of_older_stores_lack_fields(store: Store, create: Create) -> None:
    create("m")
    add_messages(store, b'[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":{"x":1}}},{}]}]')
    (message,) = store.model("m").messages
    assert message.tool_calls == (
        {"id": "", "function": {"index": 0, "name": "f", "arguments": {"x": 1}}},
        {"id": "", "function": {"index": 0, "name": "", "arguments": {}}},
    )


def test_half_a_surrogate_pair_is_replaced(store: Store, create: Create) -> None:
    create("m")
    model = store.model("m")
    store.publish(model.name, model.manifest.layers, rb'{"model_family":"a\ud800b","model_families":["\ud83d\ude00"]}')
    facts = store.model("m").facts()
    assert (facts.family, facts.families) == ("a\ufffdb", ("\U0001f600",))


def test_what_was_read_of_a_model_outlives_it(store: Store, create: Create) -> None:
    create("m")
    model = store.model("m")
    facts = model.facts()
    store.delete("m")
    assert model.facts() == facts
