"""Models whose config names a parser or a renderer, and those whose chat template tells how they think."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.daemon import Server
from tests.tiny_model import write_tiny_gguf

JINJA = (
    "{% for message in messages %}{{ message['role'] + ': ' }}"
    "{% if message.tool_calls %}<tool_call>\n{\"name\": {% endif %}{{ message['content'] + '\n' }}{% endfor %}"
    "assistant: <think>\n{% if enable_thinking is defined and not enable_thinking %}\n</think>\n\n{% endif %}"
)
HELLO = [{"role": "user", "content": "hello"}]
SHORT = {"num_predict": 6, "temperature": 0}


@pytest.fixture(scope="module")
def server(tiny_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("families")
    tiny_server.create("thinker", gguf(folder / "thinker.gguf", JINJA))
    gguf(folder / "bare.gguf", None)
    tiny_server.create("bare", folder / "bare.gguf", renderer="qwen3-coder", template="{{ .Prompt }}")
    tiny_server.create("rendered", folder / "thinker.gguf", renderer="qwen3.5", template="{{ .Prompt }}!")
    tiny_server.create(
        "messages", folder / "bare.gguf", renderer="x", template="{{ range .Messages }}{{ .Content }}{{ end }}"
    )
    yield tiny_server
    for name in ("thinker", "bare", "rendered", "messages"):
        tiny_server.client.request("DELETE", "/api/delete", json={"model": name})


def gguf(path: Path, template: str | None) -> Path:
    return write_tiny_gguf(path, metadata={"tokenizer.chat_template": template})


def chat(server: Server, model: str, **body: Any) -> Any:
    return server.client.post(
        "/api/chat", json={"model": model, "messages": HELLO, "stream": False, "options": SHORT, **body}
    )


@pytest.mark.spec(48)
def test_a_chat_template_that_opens_thoughts(server: Server) -> None:
    shown = server.client.post("/api/show", json={"model": "thinker"}).json()["capabilities"]
    assert {"tools", "thinking"} <= set(shown)
    said = chat(server, "thinker").json()["message"]
    assert said["content"] == ""
    assert said["thinking"]
    off = chat(server, "thinker", think=False).json()["message"]
    assert "thinking" not in off
    assert off["content"]
    rendered = chat(server, "thinker", think=False, _debug_render_only=True).json()["_debug_info"]
    assert rendered["rendered_template"] == "user: hello\nassistant: <think>\n</think>\n\n"


@pytest.mark.spec(37)
def test_renderers_are_chat_templates(server: Server) -> None:
    rendered = chat(server, "rendered", _debug_render_only=True).json()["_debug_info"]["rendered_template"]
    assert rendered == "user: hello\nassistant: <think>\n"
    assert chat(server, "messages", _debug_render_only=True).json()["_debug_info"]["rendered_template"] == "hello"
    refused = chat(server, "bare")
    assert refused.status_code == 500
    assert refused.json()["error"].startswith("the renderer 'qwen3-coder' that 'bare:latest' names is not supported")


def test_parsers_by_name(server: Server) -> None:
    body = {"model": "p", "from": "messages", "stream": False}
    unknown = server.client.post("/api/create", json=body | {"parser": "nonsense"})
    assert unknown.status_code == 400
    assert unknown.json()["error"].startswith('unknown parser "nonsense", known are: cogito, cohere')
    assert server.client.post("/api/create", json=body | {"parser": "gemma4"}).json() == {"status": "success"}
    shown = server.client.post("/api/show", json={"model": "p"}).json()
    assert {"tools", "thinking"} <= set(shown["capabilities"])
    assert "PARSER gemma4" in shown["modelfile"]
    assert chat(server, "p").json()["done"]
    server.client.request("DELETE", "/api/delete", json={"model": "p"})
