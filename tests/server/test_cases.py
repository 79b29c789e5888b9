"""Ollama's own test cases against a real server: models made of a tiny one, and the prompts they are given."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.conftest import TINY
from tests.server.daemon import Server, serving
from tests.tiny_model import write_tiny_gguf

FILL = "{{- if .Suffix }}<PRE> {{ .Prompt }} <SUF>{{ .Suffix }} <MID>\n{{- else }}{{ .Prompt }}\n{{- end }}"
ROLES = "{{- range .Messages }}{{ .Role }}: {{ .Content }}\n{{ end }}"
TRICKS = (
    "{{- if .System }}{{ .System }} {{ end }}{{- if .Prompt }}### USER {{ .Prompt }} {{ end }}"
    "{{- if .Response }}### ASSISTANT {{ .Response }} {{ end }}"
)
SHORT = {"num_predict": 3, "temperature": 0}
FIGURES = (
    *("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"),
)
CLOUD = "ollama cloud is disabled: remote model is unavailable"
Make = Callable[..., str]
Body = dict[str, Any]


@pytest.fixture
def make(tiny_server: Server) -> Iterator[Make]:
    """Make a model of the tiny one and return its name; it is gone after the test."""
    made: list[str] = []

    def create(**fields: Any) -> str:
        name = f"case-{len(made)}"
        answer = post(tiny_server, "create", model=name, **{"from": TINY, "stream": False, **fields})
        assert answer.json() == {"status": "success"}, answer.text
        made.append(name)
        return name

    yield create
    for name in made:
        tiny_server.client.request("DELETE", "/api/delete", json={"model": name})


def post(server: Server, path: str, **body: Any) -> httpx.Response:
    return server.client.post(f"/api/{path}", json=body)


def prompt_of(server: Server, path: str, **body: Any) -> str:
    """The prompt that a request leads to."""
    answer = post(server, path, _debug_render_only=True, **body).json()
    return str(answer["_debug_info"]["rendered_template"])


def said(role: str, content: str) -> Body:
    return {"role": role, "content": content}


@pytest.mark.spec(22)
def test_a_suffix_needs_a_template_for_it(tiny_server: Server) -> None:
    answer = post(tiny_server, "generate", model="TINY", prompt="def add(", suffix="return c")
    text = "registry.ollama.ai/library/tiny:latest does not support insert"
    assert (answer.status_code, answer.json()) == (400, {"error": text})


@pytest.mark.spec(24)
def test_a_whole_answer_has_every_figure(tiny_server: Server) -> None:
    answer = post(tiny_server, "generate", model=TINY, prompt="hello", stream=False, options=SHORT).json()
    assert (answer["done"], answer["done_reason"]) == (True, "length")
    assert answer["context"]
    assert all(answer[figure] > 0 for figure in FIGURES)


@pytest.mark.spec(25)
def test_the_requests_system_prompt_wins(tiny_server: Server, make: Make) -> None:
    model = make(system="You are kind.", template="{{ .System }}|{{ .Prompt }}")
    assert prompt_of(tiny_server, "generate", model=model, prompt="Hi") == "You are kind.|Hi"
    assert prompt_of(tiny_server, "generate", model=model, prompt="Hi", system="Be rude.") == "Be rude.|Hi"


@pytest.mark.spec(26)
def test_a_template_of_the_request(tiny_server: Server) -> None:
    body = {"model": TINY, "system": "You can perform magic tricks.", "template": TRICKS}
    rendered = prompt_of(tiny_server, "generate", prompt="Help me write tests.", **body)
    assert rendered == "You can perform magic tricks. ### USER Help me write tests. "
    answer = post(tiny_server, "generate", model=TINY, prompt="x", template="{{ .Prompt")
    assert answer.status_code == 500
    assert "unclosed action" in answer.json()["error"]


@pytest.mark.spec(27)
def test_filling_in_the_middle(tiny_server: Server, make: Make) -> None:
    model = make(template=FILL)
    assert "insert" in post(tiny_server, "show", model=model).json()["capabilities"]
    rendered = prompt_of(tiny_server, "generate", model=model, prompt="def add(", suffix="    return c")
    assert rendered == "<PRE> def add( <SUF>    return c <MID>"
    assert prompt_of(tiny_server, "generate", model=model, prompt="def add(") == "def add("


@pytest.mark.spec(28, 36)
def test_raw_prompts_stay_as_they_are(tiny_server: Server, make: Make) -> None:
    model = make(system="You are kind.")
    for prompt in ("  {{ .Prompt }} <|im_start|>\n", "\u00e9\u2028 \t"):
        assert prompt_of(tiny_server, "generate", model=model, prompt=prompt, raw=True) == prompt
    for field in ({"template": "x"}, {"system": "x"}, {"context": [1]}):
        answer = post(tiny_server, "generate", model=model, prompt="x", raw=True, **field)
        text = "raw mode does not support template, system, or context"
        assert (answer.status_code, answer.json()) == (400, {"error": text})


@pytest.mark.spec(34)
def test_a_model_that_makes_images_is_refused(tiny_server: Server, make: Make) -> None:
    model = make(info={"capabilities": ["image"]})
    answer = post(tiny_server, "generate", model=model, prompt="a cat")
    text = "image generation models are not currently supported"
    assert (answer.status_code, answer.json()) == (400, {"error": text})
    assert post(tiny_server, "generate", model=model, keep_alive=0).json()["done_reason"] == "unload"


@pytest.mark.spec(36)
def test_rendering_runs_nothing(tiny_server: Server) -> None:
    post(tiny_server, "generate", model=TINY)
    before = tiny_server.client.get("/api/stats").json()
    body = {"model": TINY, "messages": [said("user", "Hi")], "stream": True}
    assert prompt_of(tiny_server, "chat", **body) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tiny_server.client.get("/api/stats").json() == before


@pytest.mark.spec(35, 53)
@pytest.mark.parametrize("go", [True, False])
def test_markers_of_images(tiny_server: Server, make: Make, go: bool) -> None:
    model = make(template=ROLES) if go else TINY
    image = base64.b64encode(b"an image").decode()
    turns = [
        {**said("user", "two of them"), "images": [image, image]},
        said("assistant", "[img]"),
        {**said("user", "here [img] and in front"), "images": [image, image]},
    ]
    body = {"model": model, "messages": turns, "_debug_render_only": True}
    shown = post(tiny_server, "chat", **body).json()["_debug_info"]
    assert shown["image_count"] == 4
    texts = ["[img-0][img-1]two of them", "[img]", "[img-3]here [img-2] and in front"]
    assert all(text in shown["rendered_template"] for text in texts)
    shown = post(tiny_server, "chat", **body, options={"num_ctx": 64 if go else 72}).json()["_debug_info"]
    assert shown["image_count"] == 2
    assert "[img-1]here [img-0] and in front" in shown["rendered_template"]
    shown = post(tiny_server, "generate", model=model, prompt="x", images=[image], _debug_render_only=True).json()
    assert "[img-0]x" in shown["_debug_info"]["rendered_template"]


@pytest.mark.spec(35)
def test_a_context_goes_in_front(tiny_server: Server) -> None:
    body = {"model": TINY, "prompt": "Hi", "stream": False, "options": SHORT}
    before = post(tiny_server, "generate", **body).json()
    rendered = prompt_of(tiny_server, "generate", model=TINY, prompt="And?", context=before["context"])
    first, second = (f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in ("Hi", "And?"))
    assert rendered.startswith(first)
    assert rendered.endswith(second)


def test_images_among_a_models_messages_are_refused(tiny_server: Server, make: Make) -> None:
    image = base64.b64encode(b"an image").decode()
    model = make(messages=[{**said("user", "look"), "images": [image]}])
    answer = post(tiny_server, "chat", model=model, messages=[said("user", "Hi")])
    text = f"registry.ollama.ai/library/{model}:latest does not support vision"
    assert (answer.status_code, answer.json()) == (400, {"error": text})


@pytest.mark.spec(39)
def test_not_thinking_is_always_possible(tiny_server: Server) -> None:
    answer = post(tiny_server, "chat", model="Tiny", messages=[said("user", "Hi")], think=True)
    assert (answer.status_code, answer.json()) == (400, {"error": '"Tiny" does not support thinking'})
    body = {"model": TINY, "messages": [said("user", "Hi")], "stream": False, "options": SHORT}
    answer = post(tiny_server, "chat", think=False, **body)
    assert (answer.status_code, answer.json()["message"]["role"]) == (200, "assistant")


@pytest.mark.spec(42, 43)
def test_where_the_models_system_prompt_goes(tiny_server: Server, make: Make) -> None:
    plain, model = make(template=ROLES), make(template=ROLES, system="You are a helpful assistant.")
    hello, other, later = said("user", "Hello!"), said("system", "Be brief."), said("user", "And?")
    assert prompt_of(tiny_server, "chat", model=plain, messages=[hello]) == "user: Hello!\n"
    for messages, expected in (
        ([hello], "system: You are a helpful assistant.\nuser: Hello!\n"),
        ([other, hello], "system: Be brief.\nuser: Hello!\n"),
        (
            [hello, other, later],
            "system: You are a helpful assistant.\nuser: Hello!\nsystem: Be brief.\nuser: And?\n",
        ),
    ):
        assert prompt_of(tiny_server, "chat", model=model, messages=messages) == expected
    answer = post(tiny_server, "chat", model=model, messages=[hello], stream=False, options=SHORT).json()
    assert answer["message"]["role"] == "assistant"
    assert all(answer[figure] > 0 for figure in FIGURES)


@pytest.mark.spec(18)
@pytest.mark.parametrize(("family", "kept"), [("qwen3", ""), ("llama", "<think>2 and 2</think>")])
def test_whose_thoughts_are_cut_out(tiny_server: Server, make: Make, family: str, kept: str) -> None:
    model = make(template=ROLES, info={"model_family": family})
    turns = [said("user", "2+2?"), said("assistant", "<think>2 and 2</think>4"), said("user", "And?")]
    rendered = prompt_of(tiny_server, "chat", model=model, messages=turns)
    assert rendered == f"user: 2+2?\nassistant: {kept}4\nuser: And?\n"


@pytest.mark.spec(111)
@pytest.mark.parametrize("level", ["Q8_0", "Q4_K_S", "Q4_K_M", "Q4_K"])
def test_quantising_on_the_command_line(tiny_server: Server, tmp_path: Path, level: str) -> None:
    gguf = write_tiny_gguf(tmp_path / "f16.gguf", tensor_type="F16", metadata={"general.file_type": 1})
    (tmp_path / "Modelfile").write_text(f"FROM {gguf}\nPARAMETER num_predict 3\n")
    create = [sys.executable, "-m", "appliance", "create", "smaller", "-f", tmp_path / "Modelfile", "-q", level.lower()]
    run = subprocess.run(create, env=tiny_server.environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    try:
        shown = post(tiny_server, "show", model="smaller").json()
        assert shown["details"]["quantization_level"] == level
        answer = post(tiny_server, "generate", model="smaller", prompt="hello", stream=False).json()
        assert (answer["done"], answer["eval_count"]) == (True, 3)
    finally:
        tiny_server.client.request("DELETE", "/api/delete", json={"model": "smaller"})


@pytest.mark.spec(62)
@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{{ .Foo", "unclosed action"),
        ("{{ if .Prompt }}x", "unexpected EOF"),
        ("{{ nofunction .Prompt }}", 'function "nofunction" not defined'),
    ],
)
def test_templates_that_do_not_parse(tiny_server: Server, template: str, fault: str) -> None:
    for stream in (True, False):
        answer = post(tiny_server, "create", model="bad", template=template, stream=stream, **{"from": TINY})
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("template error: ")
        assert fault in answer.json()["error"]
    assert post(tiny_server, "show", model="bad").status_code == 404


@pytest.mark.spec(74)
def test_cloud_models_are_refused(tiny_server: Server) -> None:
    for name in ("gpt-oss:20b-cloud", "tiny:cloud", "tiny:CLOUD"):
        asked = [
            ("generate", {"prompt": "x"}),
            ("generate", {"keep_alive": 0}),
            ("chat", {"messages": [said("user", "Hi")]}),
            ("embed", {"input": "x"}),
            ("embeddings", {"prompt": "x"}),
        ]
        for path, body in asked:
            answer = post(tiny_server, path, model=name, **body)
            assert (answer.status_code, answer.json()) == (403, {"error": CLOUD}), path
        answer = post(tiny_server, "show", model=name)
        text = "ollama cloud is disabled: remote model details are unavailable"
        assert (answer.status_code, answer.json()) == (403, {"error": text})
    answer = post(tiny_server, "create", model="stub", remote_host="https://ollama.com", **{"from": "gpt-oss:20b"})
    assert answer.status_code == 403


@pytest.mark.spec(71)
def test_where_the_context_length_comes_from(tmp_path: Path, endless_gguf: Path) -> None:
    def context(server: Server, **options: int) -> int:
        post(server, "generate", model=model, options=options)
        (loaded,) = server.client.get("/api/ps").json()["models"]
        return int(loaded["context_length"])

    with serving(tmp_path / "models", OLLAMA_CONTEXT_LENGTH="1000") as server:
        model = "plain"
        server.create(model, endless_gguf)
        assert (context(server), context(server, num_ctx=50), context(server, num_ctx=0)) == (1000, 50, 4)
        model = "own"
        post(server, "create", model=model, parameters={"num_ctx": 200}, stream=False, **{"from": "plain"})
        assert (context(server), context(server, num_ctx=50)) == (200, 50)


def test_a_model_that_lost_its_file(tiny_server: Server, tmp_path: Path) -> None:
    gguf = write_tiny_gguf(tmp_path / "other.gguf", seed=9)
    tiny_server.create("holed", gguf)
    blob = tiny_server.models / "blobs" / f"sha256-{hashlib.sha256(gguf.read_bytes()).hexdigest()}"
    content = blob.read_bytes()
    blob.unlink()
    try:
        for path, body in (
            ("generate", {"prompt": "x"}),
            ("chat", {"messages": [said("user", "x")]}),
            ("embed", {"input": "x"}),
        ):
            answer = post(tiny_server, path, model="holed", **body)
            assert answer.status_code == 500
            assert answer.json()["error"].startswith("the weights of 'holed:latest' are incomplete: blob ")
            assert answer.json()["error"].endswith("; pull or create it again")
    finally:
        blob.write_bytes(content)
    answer = post(tiny_server, "generate", model="holed", prompt="x", stream=False, options=SHORT)
    assert answer.status_code == 200
    assert tiny_server.client.request("DELETE", "/api/delete", json={"model": "holed"}).status_code == 200
