"""Clients that leave, over a real socket: what they held is free within a chunk, and nothing more runs for them.

And clients that come when there is no place left even to wait.
"""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.conftest import ENDLESS, TINY
from tests.server.daemon import PATIENCE_S, Server, serving

CHUNK_TOKENS = 512
LONG = "ab" * 10_000  # 20,000 tokens: forty chunks, of some 50 ms each in the middle
SHORT = "ab" * 20
BUSY = "server busy, please try again.  maximum pending requests exceeded"

Stats = dict[str, Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path, endless_gguf: Path) -> Iterator[Server]:
    """One slot, one place in the queue, one model at a time, and prompts read in large chunks."""
    environment = {
        "OLLAMA_NUM_PARALLEL": "1",
        "OLLAMA_MAX_QUEUE": "1",
        "OLLAMA_MAX_LOADED_MODELS": "1",
        "APPLIANCE_PREFILL_CHUNK_TOKENS": str(CHUNK_TOKENS),
        "APPLIANCE_STEP_MS": "60000",
    }
    with serving(tmp_path_factory.mktemp("store") / "models", **environment) as server:
        server.create(TINY, tiny_gguf)
        server.create(ENDLESS, endless_gguf)
        yield server


@pytest.fixture(autouse=True)
def fresh(server: Server) -> Iterator[None]:
    """Totals count from zero."""
    yield
    server.client.post("/api/generate", json={"model": ENDLESS, "keep_alive": 0})
    await_stats(server, lambda stats: not stats)


def body(prompt: str, *, stream: bool) -> dict[str, Any]:
    options = {"num_ctx": 50_000, "num_predict": 400_000, "temperature": 0}
    return {"model": ENDLESS, "prompt": prompt, "raw": True, "stream": stream, "options": options}


def ask(server: Server, prompt: str, *, stream: bool) -> socket.socket:
    """Send a request that will not end by itself."""
    text = json.dumps(body(prompt, stream=stream))
    head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(text)}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
    connection.sendall((head + text).encode())
    return connection


def stats_of(server: Server) -> Stats:
    """The figures of the one loaded model, or nothing."""
    models = server.client.get("/api/stats").json()["models"]
    return models[0] if models else {}


def await_stats(server: Server, condition: Callable[[Stats], bool]) -> Stats:
    deadline = time.monotonic() + PATIENCE_S
    while not condition(stats := stats_of(server)):
        assert time.monotonic() < deadline, stats
        time.sleep(0.005)
    return stats


def is_free(stats: Stats) -> bool:
    return bool(stats) and (stats["slots"]["busy"], stats["waiting"], stats["queue"]) == (0, 0, [])


def check_that_nothing_runs(server: Server) -> None:
    before = stats_of(server)
    time.sleep(0.2)
    assert stats_of(server) == before


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_while_the_prompt_is_read(server: Server, stream: bool) -> None:
    connection = ask(server, LONG, stream=stream)
    before = await_stats(server, lambda stats: bool(stats) and stats["tokens"]["evaluated"] >= 10 * CHUNK_TOKENS)
    connection.close()
    after = await_stats(server, is_free)
    ran = after["tokens"]["evaluated"] - before["tokens"]["evaluated"]
    assert ran <= 2 * CHUNK_TOKENS, "the chunk that ran when we looked, and the one that ran when we left"
    assert after["tokens"]["generated"] == 0
    check_that_nothing_runs(server)


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_while_the_answer_is_written(server: Server, stream: bool) -> None:
    connection = ask(server, SHORT, stream=stream)
    await_stats(server, lambda stats: bool(stats) and stats["tokens"]["generated"] >= 10)
    assert stats_of(server)["slots"]["busy"] == 1
    connection.close()
    after = await_stats(server, is_free)
    assert after["tokens"]["generated"] < 400_000
    check_that_nothing_runs(server)


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_the_queue(server: Server, stream: bool) -> None:
    running = ask(server, SHORT, stream=True)
    await_stats(server, lambda stats: bool(stats) and stats["tokens"]["generated"] >= 1)
    waiting = ask(server, LONG, stream=stream)
    before = await_stats(server, lambda stats: bool(stats["queue"]))
    assert (before["waiting"], before["queue"]) == (1, [{"position": 1, "prompt_tokens": len(LONG)}])
    waiting.close()
    after = await_stats(server, lambda stats: stats["waiting"] == 0)
    assert (after["queue"], after["slots"]) == ([], {"total": 1, "busy": 1})
    running.close()
    free = await_stats(server, is_free)
    assert free["tokens"]["prompt"] == len(SHORT), "the one that left the queue never got a slot"
    check_that_nothing_runs(server)


def check_refused(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()) == (503, {"error": BUSY})
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.spec(108)
@pytest.mark.parametrize("stream", [True, False])
def test_one_more_than_may_wait_is_refused(server: Server, stream: bool) -> None:
    running = ask(server, SHORT, stream=True)
    await_stats(server, lambda stats: bool(stats) and stats["slots"]["busy"] == 1)
    waiting = ask(server, SHORT, stream=stream)
    await_stats(server, lambda stats: stats["waiting"] == 1)
    check_refused(server.client.post("/api/generate", json=body(SHORT, stream=stream)))
    assert stats_of(server)["waiting"] == 1, "who waits goes on waiting"
    running.close()
    await_stats(server, lambda stats: (stats["slots"]["busy"], stats["waiting"]) == (1, 0))
    waiting.close()
    await_stats(server, is_free)


@pytest.mark.spec(108)
def test_one_more_than_may_wait_for_a_model_is_refused(server: Server) -> None:
    """The other model can only load when the first is idle, so of two that ask for it one waits."""
    running = ask(server, SHORT, stream=True)
    await_stats(server, lambda stats: bool(stats) and stats["slots"]["busy"] == 1)
    answers: queue.SimpleQueue[httpx.Response] = queue.SimpleQueue()
    short = {"model": TINY, "prompt": "hello", "stream": False, "options": {"num_predict": 2}}

    def other() -> None:
        answers.put(httpx.post(f"{server.url}/api/generate", json=short, timeout=PATIENCE_S))

    threads = [threading.Thread(target=other) for _ in range(2)]
    for thread in threads:
        thread.start()
    check_refused(answers.get(timeout=PATIENCE_S))
    running.close()
    assert answers.get(timeout=PATIENCE_S).status_code == 200
    for thread in threads:
        thread.join()
    server.client.post("/api/generate", json={"model": TINY, "keep_alive": 0})
