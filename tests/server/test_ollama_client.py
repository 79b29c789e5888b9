"""The official Python client against a real server and a tiny model: what it parses is what we mean."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import httpx
import ollama
import pytest

from tests.server.conftest import ENDLESS, TINY
from tests.server.daemon import Server

SHORT = {"num_predict": 8, "temperature": 0}
HELLO = [{"role": "user", "content": "hello the hello"}]
FOREVER = {"num_predict": -1, "temperature": 0, "num_ctx": 50_000}  # half a million tokens
PATIENCE_S = 10


@pytest.fixture
def client(tiny_server: Server) -> Iterator[ollama.Client]:
    client = ollama.Client(host=tiny_server.url, timeout=60)
    yield client
    client._client.close()


def loaded(client: ollama.Client) -> list[str]:
    return [str(model.model) for model in client.ps().models]


def await_unloaded(client: ollama.Client, name: str = TINY) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while f"{name}:latest" in loaded(client):
        assert time.monotonic() < deadline, "the model is still loaded"
        time.sleep(0.05)


def test_list_and_show(client: ollama.Client) -> None:
    model = next(model for model in client.list().models if model.model == f"{TINY}:latest")
    assert model.details
    assert (model.details.format, model.details.family) == ("gguf", "llama")
    shown = client.show(TINY)
    assert shown.modelinfo
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.capabilities == ["completion"]
    assert shown.template


@pytest.mark.spec(42)
def test_stream_equals_the_whole(client: ollama.Client) -> None:
    whole = client.chat(TINY, HELLO, options=SHORT)
    parts = list(client.chat(TINY, HELLO, options=SHORT, stream=True))
    assert "".join(str(part.message.content) for part in parts) == whole.message.content
    last = parts[-1]
    assert last.done
    assert last.done_reason in ("stop", "length")
    for figure in (last.total_duration, last.load_duration, last.prompt_eval_count, last.prompt_eval_duration):
        assert figure
        assert figure > 0


@pytest.mark.spec(24, 35)
def test_context_continues_a_conversation(client: ollama.Client) -> None:
    first = client.generate(TINY, "hello", options=SHORT)
    second = client.generate(TINY, "the", context=first.context, options=SHORT)
    assert first.context
    assert second.context
    assert list(second.context)[: len(first.context)] == list(first.context)
    assert not client.generate(TINY, "hello", raw=True, options=SHORT).context


def test_a_seed_repeats_an_answer(client: ollama.Client) -> None:
    warm = {"num_predict": 20, "temperature": 1.0, "seed": 11}
    answers = {client.generate(TINY, "hello", options=warm).response for _ in range(3)}
    assert len(answers) == 1
    assert client.generate(TINY, "hello", options={**warm, "seed": 12}).response not in answers


def test_create_copy_delete(client: ollama.Client) -> None:
    statuses = [part.status for part in client.create("mario", from_=TINY, system="You are Mario.", stream=True)]
    assert statuses[-2:] == ["writing manifest", "success"]
    client.copy("mario", "luigi")
    assert "You are Mario." in str(client.show("LUIGI").modelfile)
    for name in ("mario", "luigi"):
        client.delete(name)
    with pytest.raises(ollama.ResponseError, match="not found") as caught:
        client.delete("mario")
    assert caught.value.status_code == 404


@pytest.mark.spec(23, 32, 41)
def test_load_unload_and_keep_alive(client: ollama.Client) -> None:
    assert client.generate(TINY, "").done_reason == "load"
    assert f"{TINY}:latest" in loaded(client)
    assert client.generate(TINY, "", keep_alive=0).done_reason == "unload"
    await_unloaded(client)
    client.generate(TINY, "hi", options=SHORT, keep_alive="100ms")
    await_unloaded(client)
    client.generate(TINY, "hi", options=SHORT, keep_alive=-1)
    model = next(model for model in client.ps().models if model.model == f"{TINY}:latest")
    assert model.expires_at
    assert model.expires_at.year > 2200


@pytest.mark.spec(22, 39)
def test_what_the_model_cannot_do_is_said(client: ollama.Client) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}
    cases = [
        (lambda: client.chat(TINY, HELLO, think=True), "does not support thinking"),
        (lambda: client.chat(TINY, HELLO, tools=[tool]), "does not support tools"),
        (lambda: client.chat(TINY, HELLO, format={"type": "array", "uniqueItems": True}), "uniqueItems"),
        (lambda: client.generate(TINY, "a", suffix="b"), "does not support insert"),
        (lambda: client.generate(TINY, "a", images=[b"\x89PNG"]), "does not support vision"),
    ]
    for call, text in cases:
        with pytest.raises(ollama.ResponseError, match=text) as caught:
            call()
        assert caught.value.status_code == 400


@pytest.mark.spec(50)
def test_format_gives_json(client: ollama.Client, tiny_server: Server) -> None:
    properties = {"x": {"enum": ["a\u2028b", "c"]}, "n": {"type": "integer", "maximum": 9}}
    schema = {"type": "object", "properties": properties, "required": ["x", "n"]}
    for options in ({"temperature": 0}, {"temperature": 1.5, "seed": 3}):
        whole = client.chat(TINY, HELLO, format=schema, options={**options, "num_predict": 100}).message.content
        parts = client.chat(TINY, HELLO, format=schema, options={**options, "num_predict": 100}, stream=True)
        streamed = "".join(str(part.message.content) for part in parts)
        assert streamed == whole
        assert json.loads(streamed).keys() == {"x", "n"}
    answer = tiny_server.client.post("/api/generate", json={"model": TINY, "prompt": "hello", "format": "xml"})
    assert answer.status_code == 500
    assert answer.json() == {"error": 'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object'}


def test_a_long_run_of_equal_pieces_does_not_end_a_constrained_answer(client: ollama.Client) -> None:
    answer = client.generate(TINY, "hello", format={"const": "z" * 60}, options=SHORT | {"num_predict": 100})
    assert json.loads(answer.response) == "z" * 60


@pytest.mark.spec(53, 106)
def test_a_long_conversation_loses_its_oldest_turns_and_a_long_prompt_is_refused(client: ollama.Client) -> None:
    turns = [{"role": role, "content": "hello " * 20} for _ in range(10) for role in ("user", "assistant")]
    options = {**SHORT, "num_ctx": 128}
    answer = client.chat(TINY, [*turns, *HELLO], options=options)
    assert answer.prompt_eval_count
    assert answer.prompt_eval_count <= 128
    with pytest.raises(ollama.ResponseError, match=r"tokens exceed the limit of 128") as caught:
        client.chat(TINY, [{"role": "user", "content": "hello " * 200}], options=options)
    assert caught.value.status_code == 400


@pytest.mark.spec(107)
def test_generation_goes_on_past_the_context(client: ollama.Client) -> None:
    options = {"num_predict": 200, "num_ctx": 64, "temperature": 0, "stop": []}
    answer = client.generate(TINY, "hello", raw=True, options=options)
    assert answer.eval_count == 200 or answer.done_reason == "stop"


@pytest.mark.parametrize("way", ["close", "cancel", "timeout"])
def test_a_client_that_goes_away_frees_the_model(client: ollama.Client, tiny_server: Server, way: str) -> None:
    if way == "close":
        stream = client.chat(ENDLESS, HELLO, stream=True, options=FOREVER)
        next(stream)
        stream.close()
    elif way == "cancel":
        asyncio.run(abandon(tiny_server.url))
    else:
        hasty = ollama.Client(host=tiny_server.url, timeout=0.5)
        with pytest.raises(httpx.ReadTimeout):
            hasty.chat(ENDLESS, HELLO, options=FOREVER)
        hasty._client.close()
    client.chat(ENDLESS, [], keep_alive=0)  # unloads when nothing runs any more
    await_unloaded(client, ENDLESS)


async def abandon(url: str) -> None:
    client = ollama.AsyncClient(host=url, timeout=60)

    async def read() -> None:
        async for _ in await client.chat(ENDLESS, HELLO, stream=True, options=FOREVER):
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await client._client.aclose()


@pytest.mark.spec(107, 108)
def test_eight_at_once(tiny_server: Server, client: ollama.Client) -> None:
    prompts = [f"hello {number} the" for number in range(8)]
    alone = [client.generate(TINY, prompt, options=SHORT).response for prompt in prompts]

    async def together() -> list[str]:
        crowd = ollama.AsyncClient(host=tiny_server.url, timeout=60)
        answers = await asyncio.gather(*(crowd.generate(TINY, prompt, options=SHORT) for prompt in prompts))
        await crowd._client.aclose()
        return [answer.response for answer in answers]

    assert asyncio.run(together()) == alone
