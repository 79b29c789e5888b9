"""/api/generate and /api/chat against a scripted service."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from appliance import core, errors
from appliance.core import DoneReason, Reply, TokenLogprob
from tests.api.fake import FINISHED, METRICS, FakeService

Client = TestClient[Litestar]
JSON = "application/json; charset=utf-8"
METRIC_FIELDS = (
    '"total_duration":312000000,"load_duration":15000000,"prompt_eval_count":26,'
    '"prompt_eval_duration":120000000,"eval_count":3,"eval_duration":150000000'
)
CALL = {
    "id": "call_q7x0m2ab",
    "function": {"index": 0, "name": "get_weather", "arguments": {"city": "Oslo"}},
}


def post(client: Client, path: str, body: str | bytes | dict[str, Any]) -> Any:
    return client.post(path, content=json.dumps(body) if isinstance(body, dict) else body)


def timeless(text: str) -> str:
    """`text` with its time replaced, once it is of the right form."""
    return re.sub(r'"created_at":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,8}[1-9])?Z"', '"created_at":"T"', text)


def test_generate_streams_lines(client: Client, service: FakeService) -> None:
    finished = Reply(done=True, done_reason=DoneReason.STOP, metrics=METRICS, context=(128006, 882, 128007))
    service.script = [Reply(text="Hello"), Reply(text="!"), finished]
    response = post(client, "/api/generate", '{"model":"llama3.2","prompt":"Hi"}')
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/x-ndjson"
    assert timeless(response.text) == (
        '{"model":"llama3.2","created_at":"T","response":"Hello","done":false}\n'
        '{"model":"llama3.2","created_at":"T","response":"!","done":false}\n'
        '{"model":"llama3.2","created_at":"T","response":"","done":true,"done_reason":"stop",'
        f'"context":[128006,882,128007],{METRIC_FIELDS}}}\n'
    )


@pytest.mark.spec(23, 32, 41)
@pytest.mark.parametrize(("keep_alive", "reason"), [("", DoneReason.LOAD), (',"keep_alive":0', DoneReason.UNLOAD)])
@pytest.mark.parametrize("stream", ["", ',"stream":true', ',"stream":false'])
def test_load_and_unload_are_never_streams(
    client: Client, service: FakeService, keep_alive: str, reason: DoneReason, stream: str
) -> None:
    service.script = [Reply(done=True, done_reason=reason)]
    response = post(client, "/api/generate", f'{{"model":"llama3.2"{keep_alive}{stream}}}')
    assert response.headers["content-type"] == JSON
    assert timeless(response.text) == (
        f'{{"model":"llama3.2","created_at":"T","response":"","done":true,"done_reason":"{reason}"}}'
    )
    assert service.calls[0].keep_alive_s == (0 if keep_alive else None)
    response = post(client, "/api/chat", f'{{"model":"llama3.2"{keep_alive}{stream}}}')
    assert response.headers["content-type"] == JSON
    assert timeless(response.text) == (
        '{"model":"llama3.2","created_at":"T","message":{"role":"assistant","content":""},'
        f'"done":true,"done_reason":"{reason}"}}'
    )


@pytest.mark.spec(44)
def test_chat_streams_thinking_and_calls(client: Client, service: FakeService) -> None:
    service.script = [Reply(thinking="I need the weather."), Reply(tool_calls=(CALL,)), FINISHED]
    response = post(client, "/api/chat", '{"model":"qwen3","messages":[{"role":"user","content":"?"}]}')
    assert timeless(response.text) == (
        '{"model":"qwen3","created_at":"T","message":{"role":"assistant","content":"",'
        '"thinking":"I need the weather."},"done":false}\n'
        '{"model":"qwen3","created_at":"T","message":{"role":"assistant","content":"","tool_calls":'
        '[{"id":"call_q7x0m2ab","function":{"index":0,"name":"get_weather","arguments":{"city":"Oslo"}}}]},'
        '"done":false}\n'
        '{"model":"qwen3","created_at":"T","message":{"role":"assistant","content":""},"done":true,'
        f'"done_reason":"stop",{METRIC_FIELDS}}}\n'
    )


def test_not_streaming_joins_everything(client: Client, service: FakeService) -> None:
    logprobs = [(TokenLogprob("a", -0.5),), (TokenLogprob("b", -1.0),)]
    service.script = [
        Reply(thinking="hm"),
        Reply(thinking="m"),
        Reply(text="a", logprobs=logprobs[0]),
        Reply(text="b", logprobs=logprobs[1], tool_calls=(CALL,)),
        FINISHED,
    ]
    response = post(client, "/api/chat", '{"model":"m","stream":false,"messages":[]}')
    assert response.headers["content-type"] == JSON
    assert timeless(response.text) == (
        '{"model":"m","created_at":"T","message":{"role":"assistant","content":"ab","thinking":"hmm","tool_calls":'
        '[{"id":"call_q7x0m2ab","function":{"index":0,"name":"get_weather","arguments":{"city":"Oslo"}}}]},'
        '"done":true,"done_reason":"stop","logprobs":[{"token":"a","logprob":-0.5,"bytes":[97]},'
        f'{{"token":"b","logprob":-1.0,"bytes":[98]}}],{METRIC_FIELDS}}}'
    )
    body = post(client, "/api/generate", '{"model":"m","stream":false,"prompt":"x"}').json()
    assert (body["response"], body["thinking"], len(body["logprobs"])) == ("ab", "hmm", 2)
    assert list(body)[-2:] == ["tool_calls", "logprobs"]


@pytest.mark.spec(31)
def test_logprobs_carry_bytes(client: Client, service: FakeService) -> None:
    top = (TokenLogprob("Hi", -0.12), TokenLogprob("é", -2.4), TokenLogprob("", -3.0))
    service.script = [Reply(text="Hi", logprobs=(TokenLogprob("Hi", -0.12, top),)), FINISHED]
    response = post(client, "/api/generate", '{"model":"m","prompt":"x","logprobs":true,"top_logprobs":3}')
    assert (
        '"logprobs":[{"token":"Hi","logprob":-0.12,"bytes":[72,105],"top_logprobs":['
        '{"token":"Hi","logprob":-0.12,"bytes":[72,105]},{"token":"é","logprob":-2.4,"bytes":[195,169]},'
        '{"token":"","logprob":-3.0}]}]'
    ) in response.text
    assert (service.calls[0].logprobs, service.calls[0].top_logprobs) == (True, 3)


@pytest.mark.spec(36)
def test_rendering_only(client: Client, service: FakeService) -> None:
    service.script = [Reply(rendered="user: hi", images=1)]
    response = post(client, "/api/generate", '{"model":"m","prompt":"hi","images":["aGk="],"_debug_render_only":true}')
    assert timeless(response.text) == (
        '{"model":"m","created_at":"T","response":"","done":false,'
        '"_debug_info":{"rendered_template":"user: hi","image_count":1}}'
    )
    service.script = [Reply(rendered="user: hi")]
    response = post(client, "/api/chat", '{"model":"m","_debug_render_only":true,"stream":false}')
    assert timeless(response.text) == (
        '{"model":"m","created_at":"T","message":{"role":"","content":""},"done":false,'
        '"_debug_info":{"rendered_template":"user: hi"}}'
    )
    assert service.calls[0].render_only


def test_what_is_sent_reaches_the_service(client: Client, service: FakeService) -> None:
    body = {
        "model": "M:Tag",
        "prompt": "p",
        "suffix": "s",
        "system": "sys",
        "template": "t",
        "context": [1, 2],
        "raw": True,
        "images": ["aGk="],
        "options": {"seed": 7, "stop": ["a"]},
        "keep_alive": "5m",
        "think": "high",
        "format": {"type": "object"},
        "truncate": False,
        "shift": True,
    }
    assert post(client, "/api/generate", body).status_code == 200
    assert service.calls == [
        core.GenerateRequest(
            model="M:Tag",
            prompt="p",
            suffix="s",
            system="sys",
            template="t",
            context=(1, 2),
            raw=True,
            images=(b"hi",),
            options={"seed": 7, "stop": ["a"]},
            keep_alive_s=300.0,
            think="high",
            format={"type": "object"},
            truncate=False,
            shift=True,
        )
    ]


def test_a_conversation_reaches_the_service(client: Client, service: FakeService) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    call = {"function": {"name": "f", "arguments": {"b": 1, "a": [None]}}}
    messages = [
        {"role": "SYSTEM", "content": "s"},
        {"role": "user", "content": "u", "images": ["aGk="]},
        {"role": "assistant", "content": None, "thinking": "t", "tool_calls": [call]},
        {"role": "tool", "content": "r", "tool_name": "f", "tool_call_id": "c"},
    ]
    assert post(client, "/api/chat", {"model": "m", "messages": messages, "tools": [tool]}).status_code == 200
    assert service.calls == [
        core.ChatRequest(
            model="m",
            messages=(
                core.Message("system", "s"),
                core.Message("user", "u", images=(b"hi",)),
                core.Message(
                    "assistant",
                    thinking="t",
                    tool_calls=({"function": {"index": 0, "name": "f", "arguments": {"b": 1, "a": [None]}}},),
                ),
                core.Message("tool", "r", tool_name="f", tool_call_id="c"),
            ),
            tools=(tool,),
        )
    ]


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
def test_explicit_nothing_is_absent(client: Client, service: FakeService, path: str) -> None:
    post(client, path, '{"model":"m"}')
    body = '{"model":"m","prompt":"","messages":[],"format":"","tools":[],"options":null,"think":null,"images":[]}'
    post(client, path, body)
    assert service.calls[0] == service.calls[1]
    assert service.calls[0].format is None


def test_the_content_type_is_ignored(client: Client) -> None:
    for content_type in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data", "nonsense", ""):
        response = client.post("/api/generate", content='{"model":"m"}', headers={"content-type": content_type})
        assert response.status_code == 200


@pytest.mark.spec(20, 30, 38)
@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/api/generate", "", 400, "missing request body"),
        ("/api/generate", "null", 404, "model '' not found"),
        ("/api/generate", '{"model":""}', 404, "model '' not found"),
        ("/api/generate", '{"model":"nope","top_logprobs":21}', 400, "top_logprobs must be between 0 and 20"),
        ("/api/generate", '{"top_logprobs":-1}', 400, "top_logprobs must be between 0 and 20"),
        ("/api/generate", '{"model":"m","keep_alive":"soon"}', 400, 'time: invalid duration "soon"'),
        ("/api/chat", "", 400, "missing request body"),
        ("/api/chat", "null", 400, "model is required"),
        ("/api/chat", "{}", 400, "model is required"),
        ("/api/chat", '{"model":" "}', 400, "model is required"),
        ("/api/chat", '{"top_logprobs":-1}', 400, "top_logprobs must be between 0 and 20"),
    ],
)
def test_refused_before_the_service_is_asked(
    client: Client, service: FakeService, path: str, body: str, status: int, text: str
) -> None:
    response = post(client, path, body)
    assert (response.status_code, response.json()) == (status, {"error": text})
    assert response.headers["content-type"] == JSON
    assert service.calls == []


@pytest.mark.spec(29, 47)
@pytest.mark.parametrize("stream", ["true", "false"])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.ModelNotFound("model 'nope' not found"), 404),
        (errors.InvalidName("invalid model name"), 400),
        (errors.InvalidOption('option "seed" must be of type integer'), 500),
        (errors.InvalidTemplate("template: x"), 500),
        (errors.Unsupported('"bert" does not support chat'), 400),
        (errors.PromptTooLong(10, 5), 400),
        (errors.Forbidden("ollama cloud is disabled: remote model is unavailable"), 403),
        (errors.ServerBusy(512), 503),
        (errors.RequestCancelled(), 499),
        (errors.NotEnoughMemory(10, 5), 500),
        (errors.NotEnoughDisk(10, 5), 507),
        (errors.EngineStopped("x"), 500),
        (errors.TruncatedGGUF("tensor", 10, 5), 500),
        (errors.ConversionFailed("x"), 500),
    ],
)
def test_an_early_error_has_its_status(
    client: Client, service: FakeService, error: errors.ApplianceError, status: int, stream: str
) -> None:
    service.script = [error]
    response = post(client, "/api/chat", f'{{"model":"nope","stream":{stream}}}')
    assert (response.status_code, response.json()) == (status, {"error": str(error)})
    assert response.headers["content-type"] == JSON
    assert response.headers.get("retry-after") == ("5" if status == 503 else None)


@pytest.mark.spec(52)
def test_a_late_error_is_the_last_line(client: Client, service: FakeService) -> None:
    service.script = [Reply(text="Once"), errors.EngineStopped(), Reply(text="never")]
    for path in ("/api/chat", "/api/generate"):
        response = post(client, path, '{"model":"m","prompt":"x"}')
        assert response.status_code == 200
        first, last = response.text.splitlines()
        assert "Once" in first
        assert last.startswith('{"error":"model runner has unexpectedly stopped')
    response = post(client, "/api/chat", '{"model":"m","stream":false}')
    assert response.status_code == 500
    assert response.json()["error"].startswith("model runner")


def test_a_defect_is_logged_and_stays_vague(
    client: Client, service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service.script = [ValueError("/secret/path")]
    for body in ('{"model":"m"}', '{"model":"m","stream":false}'):
        caplog.clear()
        response = post(client, "/api/chat", body)
        assert (response.status_code, response.text) == (500, '{"error":"internal error"}')
        assert [(record.levelno, bool(record.exc_info)) for record in caplog.records] == [(logging.ERROR, True)]
    caplog.clear()
    service.script = [Reply(text="a"), ValueError("/secret/path")]
    response = post(client, "/api/chat", '{"model":"m"}')
    assert response.text.splitlines()[-1] == '{"error":"internal error"}'
    assert "/secret/path" in caplog.text


def test_lines_survive_splitlines(client: Client, service: FakeService) -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\rj\nk<l>m&n"
    service.script = [Reply(text=text), FINISHED]
    lines = post(client, "/api/generate", '{"model":"m","prompt":"x"}').text.splitlines()
    assert len(lines) == 2
    assert json.loads(lines[0])["response"] == text
    assert "\\u003cl\\u003em\\u0026n" in lines[0]


def test_durations_are_never_zero(client: Client, service: FakeService) -> None:
    service.script = [Reply(done=True, metrics=core.Metrics(0, 0, 0, 0, 0, 0))]
    body = post(client, "/api/generate", '{"model":"m","prompt":"x","stream":false}').json()
    durations = [body[f"{name}_duration"] for name in ("total", "load", "prompt_eval", "eval")]
    assert durations == [1, 1, 1, 1]
    assert "eval_count" not in body


def test_the_generator_is_closed(client: Client, service: FakeService) -> None:
    service.script = [Reply(done=True, done_reason=DoneReason.LOAD), Reply(text="never asked for")]
    post(client, "/api/generate", '{"model":"m"}')
    assert service.ended.is_set()


def test_a_body_may_be_large_but_not_endless(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.requests.MAX_JSON_BYTES", 2**20)
    assert post(client, "/api/generate", {"model": "m", "prompt": "x" * 2**19}).status_code == 200
    response = post(client, "/api/generate", {"model": "m", "prompt": "x" * 2**20})
    assert (response.status_code, response.json()) == (413, {"error": "request body is larger than 1 MiB"})
