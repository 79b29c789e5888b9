"""Tools over a real socket, with the official client: a call, its result, an answer (spec 8: 44, 45, 46, 90, 109)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import ollama
import pytest

from tests.calling_template import CALLING
from tests.random_tools import random_tool
from tests.server.conftest import ENDLESS, TINY
from tests.server.daemon import Server

CALLER = "caller"
SHORT = {"num_predict": 400, "temperature": 0.8, "seed": 1}
ASKED: dict[str, Any] = {"role": "user", "content": "How warm is it?"}
PARAMETERS = {
    "type": "object",
    "required": ["city", "unit"],
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Oslo"]},
        "unit": {"type": ["string", "null"], "enum": ["C", None]},
    },
}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "the weather", "parameters": PARAMETERS},
}  # fmt: skip


@pytest.fixture(scope="module")
def client(tiny_server: Server) -> Iterator[ollama.Client]:
    client = ollama.Client(host=tiny_server.url, timeout=60)
    client.create(CALLER, from_=ENDLESS, template=CALLING)
    yield client
    client.delete(CALLER)
    client._client.close()


def answered(client: ollama.Client, messages: Sequence[Any], *, stream: bool) -> ollama.Message:
    """The whole answer, streamed or not."""
    if not stream:
        return client.chat(CALLER, messages, tools=[TOOL], options=SHORT).message
    parts = list(client.chat(CALLER, messages, tools=[TOOL], options=SHORT, stream=True))
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert not parts[-1].message.content
    assert not parts[-1].message.tool_calls
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    assert all(not part.message.content for part in parts if part.message.tool_calls), "a call has a line of its own"
    content = "".join(part.message.content or "" for part in parts)
    return ollama.Message(role="assistant", content=content, tool_calls=calls)


@pytest.mark.spec(44)
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_its_result_and_an_answer(client: ollama.Client, stream: bool) -> None:
    message = answered(client, [ASKED], stream=stream)
    assert not message.content
    assert message.tool_calls
    for call in message.tool_calls:
        assert call.function.name == "get_weather"
        jsonschema.validate(dict(call.function.arguments), PARAMETERS)
    result = {"role": "tool", "content": "4 degrees", "tool_name": "get_weather"}
    answer = answered(client, [ASKED, message, result], stream=stream)
    assert answer.content
    assert not answer.tool_calls


@pytest.mark.spec(45)
def test_streamed_and_whole_calls_are_the_same(client: ollama.Client) -> None:
    whole, streamed = (answered(client, [ASKED], stream=stream).tool_calls for stream in (False, True))
    assert whole == streamed


@pytest.mark.spec(46, 90)
def test_the_wire(client: ollama.Client, tiny_server: Server) -> None:
    body = {"model": CALLER, "messages": [ASKED], "tools": [TOOL], "options": SHORT, "stream": False}
    reply = tiny_server.client.post("/api/chat", json=body).json()
    assert reply["done_reason"] in ("stop", "length")
    first = reply["message"]["tool_calls"][0]
    assert list(first) == ["id", "function"]
    assert len(first["id"]) == len("call_01234567")
    assert list(first["function"]) == ["index", "name", "arguments"]
    assert list(first["function"]["arguments"]) == ["city", "unit"], "in the schema's order"
    shown = tiny_server.client.post("/api/chat", json=body | {"logprobs": True, "stream": True})
    assert shown.text.count('"logprobs"') > 10, "log probabilities leave while their text is held back"


@pytest.mark.spec(90)
def test_the_prompt_has_the_tools_the_calls_and_their_results(client: ollama.Client, tiny_server: Server) -> None:
    kept = {"type": "string", "description": "where", "enum": ["Paris"], "minLength": 3, "x-other": 1}
    properties = {"zone": kept, "at": {"type": ["integer", "null"], "maximum": 3}}
    function = {"name": "f", "parameters": {"type": "object", "properties": properties, "additionalProperties": False}}
    call = {"id": "call_1", "function": {"index": 0, "name": "f", "arguments": {"zone": "Paris", "at": 1}}}
    messages = [
        ASKED,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "tool_name": "f", "content": "4 degrees"},
    ]
    body = {"model": CALLER, "messages": messages, "tools": [{"type": "function", "function": function}]}
    reply = tiny_server.client.post("/api/chat", json=body | {"_debug_render_only": True}).json()
    prompt = reply["_debug_info"]["rendered_template"]
    declared = (
        '{"type":"object","properties":{"at":{"type":["integer","null"]},'
        '"zone":{"type":"string","description":"where","enum":["Paris"]}}}'
    )
    assert f'{{"name":"f","description":"","parameters":{declared}}}' in prompt
    assert '<tool_call>\n{"name": "f", "arguments": {"at":1,"zone":"Paris"}}\n</tool_call>' in prompt
    assert "<|im_start|>tool\n4 degrees<|im_end|>" in prompt


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}]},
         "cannot unmarshal string into Go struct field"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]},
         "cannot unmarshal array into Go struct field"),
    ],
)  # fmt: skip
def test_arguments_have_to_be_an_object(tiny_server: Server, message: dict[str, Any], error: str) -> None:
    answer = tiny_server.client.post("/api/chat", json={"model": TINY, "messages": [message]})
    assert answer.status_code == 400
    assert error in answer.json()["error"]


@pytest.mark.parametrize("tool", [{}, {"type": "function"}, {"function": {"name": "now"}}])
def test_tools_of_which_little_is_said(client: ollama.Client, tiny_server: Server, tool: dict[str, Any]) -> None:
    body = {"model": CALLER, "messages": [ASKED], "tools": [tool], "_debug_render_only": True}
    answer = tiny_server.client.post("/api/chat", json=body)
    assert answer.status_code == 200, answer.text
    assert '"parameters":{"type":"","properties":{}}' in answer.json()["_debug_info"]["rendered_template"]


def test_a_model_whose_template_has_no_tools_says_so(client: ollama.Client) -> None:
    assert "tools" in (client.show(CALLER).capabilities or [])
    assert "tools" not in (client.show(TINY).capabilities or [])
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat(TINY, [ASKED], tools=[TOOL])
    assert caught.value.status_code == 400
    assert caught.value.error == f"registry.ollama.ai/library/{TINY}:latest does not support tools"


def first_call(server: Server, tool: dict[str, Any], seed: int) -> dict[str, Any]:
    """The first call of an answer, which is not waited for any longer."""
    options = {"num_predict": 200, "temperature": 0.8, "seed": seed}
    body = {"model": CALLER, "messages": [ASKED], "tools": [tool], "options": options}
    with server.client.stream("POST", "/api/chat", json=body) as answer:
        for line in answer.iter_lines():
            part = json.loads(line)
            assert not part["message"]["content"]
            if calls := part["message"].get("tool_calls"):
                found: dict[str, Any] = calls[0]["function"]
                return found
    raise AssertionError(f"no call of {tool}")


@pytest.mark.slow
@pytest.mark.spec(109)
def test_random_tools_get_arguments_that_fit(smollm2_server: Server) -> None:
    """The model never sees their schemas. The environment's RANDOM_TOOLS says how many they are."""
    count = int(os.environ.get("RANDOM_TOOLS", "24"))
    unseen = CALLING.replace("{{ . }}", "{{ .Function.Name }}")
    body = {"model": CALLER, "from": "smollm2:135m", "template": unseen, "stream": False}
    assert smollm2_server.client.post("/api/create", json=body).json() == {"status": "success"}
    tools = [random_tool(seed) for seed in range(count)]
    with ThreadPoolExecutor(8) as threads:
        calls = threads.map(lambda seed: first_call(smollm2_server, tools[seed], seed), range(count))
        for tool, call in zip(tools, calls, strict=True):
            assert call["name"] == tool["function"]["name"]
            jsonschema.validate(call["arguments"], tool["function"]["parameters"])
    smollm2_server.client.request("DELETE", "/api/delete", json={"model": CALLER})


@pytest.mark.slow
@pytest.mark.spec(109)
def test_an_agent_with_ten_tools(smollm2_server: Server) -> None:
    """A call of one of them, its result, and what comes of it: in pieces, and no markup among them."""
    body: dict[str, Any] = {"model": "agent", "from": "smollm2:135m", "template": CALLING, "stream": False}
    assert smollm2_server.client.post("/api/create", json=body).json() == {"status": "success"}
    tools = [random_tool(seed) for seed in range(10)]
    parameters = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    messages = [ASKED]
    for last in ("user", "tool"):
        body = {"model": "agent", "messages": messages, "tools": tools}
        body["options"] = SHORT | {"num_predict": 120, "num_ctx": 4096}
        with smollm2_server.client.stream("POST", "/api/chat", json=body) as answer:
            parts = [json.loads(line)["message"] for line in answer.iter_lines()]
        content = "".join(part["content"] for part in parts)
        calls = [call for part in parts for call in part.get("tool_calls", ())]
        assert "tool_call" not in content
        assert calls or (last == "tool" and content.strip())
        for call in calls:
            jsonschema.validate(call["function"]["arguments"], parameters[call["function"]["name"]])
        result = {"role": "tool", "content": "4 degrees", "tool_name": "get_weather"}
        messages = [*messages, {"role": "assistant", "content": content, "tool_calls": calls}, result]
    smollm2_server.client.request("DELETE", "/api/delete", json={"model": "agent"})
