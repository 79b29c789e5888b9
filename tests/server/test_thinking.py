"""Thinking over a real socket: SmolLM2 with a TEMPLATE that has thoughts, and examples of them to follow."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.daemon import Server

MODEL = "thinker"
TEMPLATE = """\
{{- range .Messages }}<|im_start|>{{ .Role }}
{{ if .Thinking }}<think>
{{ .Thinking }}
</think>

{{ end }}{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ if .ThinkLevel }}{{ if eq .ThinkLevel "low" }}<think>
{{ end }}{{ else if .IsThinkSet }}<think>

</think>

{{ end }}"""
ASKED = [{"role": "user", "content": "What is 3+4?"}]
SUM = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
THOUGHT = "The user asks for 3+4. That is 7."

pytestmark = pytest.mark.slow


def example(question: str, thought: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer, "thinking": thought}]


@pytest.fixture(scope="module")
def server(smollm2_server: Server) -> Server:
    examples = [
        *example("What is 2+2?", "The user asks for 2+2. That is 4.", "4"),
        *example("What is the capital of France?", "The user asks for the capital of France. That is Paris.", "Paris"),
    ]
    body = {"from": "smollm2:135m", "template": TEMPLATE, "messages": examples, "stream": False}
    body |= {"model": MODEL, "parameters": {"temperature": 0, "num_predict": 80}}
    assert smollm2_server.client.post("/api/create", json=body).json() == {"status": "success"}
    return smollm2_server


def asked(server: Server, path: str = "chat", **body: Any) -> Any:
    """The whole answer, after the parts of a stream have been held against it."""
    body = {"model": MODEL, **({"messages": ASKED} if path == "chat" else {"prompt": ASKED[0]["content"]}), **body}
    whole = server.client.post(f"/api/{path}", json=body | {"stream": False})
    assert whole.status_code == 200, whole.text
    with server.client.stream("POST", f"/api/{path}", json=body) as answer:
        parts = [json.loads(line) for line in answer.iter_lines()]
    said = [part["message"] if path == "chat" else part for part in parts]
    found = whole.json()["message"] if path == "chat" else whole.json()
    text = "content" if path == "chat" else "response"
    assert "".join(part[text] for part in said) == found[text]
    assert "".join(part.get("thinking", "") for part in said) == found.get("thinking", "")
    assert parts[-1]["eval_count"] == whole.json()["eval_count"]
    last_thought = max((at for at, part in enumerate(said) if part.get("thinking")), default=-1)
    assert all(not part[text] for part in said[: last_thought + 1])
    return whole.json()


@pytest.mark.spec(102)
def test_thoughts_and_answer_come_apart(server: Server) -> None:
    assert "thinking" in server.client.post("/api/show", json={"model": MODEL}).json()["capabilities"]
    unsaid, thinking = asked(server), asked(server, think=True)
    assert unsaid["message"] == thinking["message"]
    assert list(thinking["message"]) == ["role", "content", "thinking"]
    assert thinking["message"]["thinking"].strip() == THOUGHT
    assert "7" in thinking["message"]["content"]
    assert "think>" not in thinking["message"]["thinking"]
    assert not thinking["message"]["content"].lstrip().startswith("<")  # a tag further on is the model's own text
    generated = asked(server, "generate")
    assert (generated["thinking"], generated["response"]) == (
        thinking["message"]["thinking"],
        thinking["message"]["content"],
    )
    assert list(generated)[2:4] == ["response", "thinking"]


@pytest.mark.spec(39, 102)
def test_no_thoughts(server: Server) -> None:
    said = asked(server, think=False)["message"]
    assert "thinking" not in said
    assert "7" in said["content"]
    assert "think>" not in said["content"]


@pytest.mark.spec(48, 89)
def test_a_prompt_that_opens_the_thoughts(server: Server) -> None:
    rendered = server.client.post(
        "/api/chat", json={"model": MODEL, "messages": ASKED, "think": "low", "_debug_render_only": True}
    )
    assert rendered.json()["_debug_info"]["rendered_template"].endswith("<|im_start|>assistant\n<think>\n")
    said = asked(server, think="low")["message"]
    assert said["thinking"].strip() == THOUGHT
    assert said["content"]
    assert "<think>" not in str(said)
    refused = server.client.post("/api/chat", json={"model": MODEL, "messages": ASKED, "think": "deep"})
    assert refused.status_code == 400
    assert refused.json()["error"].startswith('invalid think value: "deep"')


@pytest.mark.spec(49)
@pytest.mark.parametrize("think", [True, "low"])
def test_an_answer_of_a_format_behind_thoughts(server: Server, think: bool | str) -> None:
    whole = asked(server, think=think, format=SUM)
    assert whole["message"]["thinking"].strip() == THOUGHT
    assert json.loads(whole["message"]["content"]) == {"sum": 7}
    plain = asked(server, think=think)
    assert whole["prompt_eval_count"] == plain["prompt_eval_count"]
    assert 0 < whole["eval_count"] <= plain["eval_count"] + 12
    (stats,) = (row for row in server.client.get("/api/stats").json()["models"] if row["name"] == f"{MODEL}:latest")
    assert stats["slots"]["busy"] == 0


@pytest.mark.spec(49)
def test_the_budget_counts_for_thoughts_and_answer(server: Server) -> None:
    few = asked(server, format=SUM, options={"num_predict": 5})
    assert (few["done_reason"], few["eval_count"], few["message"]["content"]) == ("length", 5, "")
    some = asked(server, format=SUM, options={"num_predict": 24})
    assert some["done_reason"] == "length"
    assert some["message"]["thinking"].strip() == THOUGHT
    assert some["eval_count"] <= 24


@pytest.mark.spec(50)
def test_a_format_without_thoughts(server: Server) -> None:
    for path, body in (("chat", {"think": False}), ("generate", {})):
        whole = asked(server, path, format=SUM, **body)
        text = whole["message"]["content"] if path == "chat" else whole["response"]
        assert set(json.loads(text)) == {"sum"}
        assert "thinking" not in whole.get("message", whole)


def test_thoughts_of_the_request_reach_the_template(server: Server) -> None:
    turns = [*ASKED, {"role": "assistant", "content": "7", "thinking": "Easy."}, *ASKED]
    body = {"model": MODEL, "messages": turns, "_debug_render_only": True}
    rendered = server.client.post("/api/chat", json=body).json()["_debug_info"]["rendered_template"]
    assert "<think>\nEasy.\n</think>\n\n7<|im_end|>" in rendered
