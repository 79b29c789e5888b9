"""A system prompt that many share is warm after kill -9; what was half-written then is not there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import TINY
from tests.server.daemon import PATIENCE_S, Server

SYSTEM = "You answer in rhymes, never at length, and only what you were asked. "
LIMIT_BYTES = 10_000_000


@pytest.fixture
def server(tmp_path: Path, tiny_gguf: Path) -> Iterator[Server]:
    """A server to be killed and started again."""
    server = Server(tmp_path / "models", APPLIANCE_PREFIX_SNAPSHOT_BYTES=str(LIMIT_BYTES))
    server.start()
    server.create(TINY, tiny_gguf)
    yield server
    server.stop()


def ask(server: Server, question: str) -> str:
    body: dict[str, Any] = {"model": TINY, "prompt": SYSTEM + question, "raw": True, "stream": False}
    answer = server.client.post("/api/generate", json=body | {"options": {"num_predict": 5, "temperature": 0}})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["response"])


def cached_tokens(server: Server) -> int:
    (model,) = server.client.get("/api/stats").json()["models"]
    return int(model["tokens"]["cached"])


def snapshots(server: Server) -> list[Path]:
    return sorted(server.models.glob("onnx/*/*/prefixes/*"))


def await_snapshot(server: Server) -> Path:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := [path for path in snapshots(server) if path.suffix == ".prefix"]):
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.01)
    return found[0]


def test_a_shared_system_prompt_is_warm_after_a_power_cut(server: Server) -> None:
    answers = {name: ask(server, name) for name in ("Ann?", "Bob?", "Cid?")}
    written = await_snapshot(server)
    server.kill()
    half = written.with_name("0123.partial")
    half.write_bytes(written.read_bytes()[:5000])
    cut = written.with_name("4567.prefix")
    cut.write_bytes(written.read_bytes()[:-1])
    server.start()
    assert ask(server, "Bob?") == answers["Bob?"]
    assert cached_tokens(server) >= len(SYSTEM) - 10, "merges make the system prompt a few tokens shorter"
    assert snapshots(server) == [written]
    log = server.log.read_text()
    assert "removed 0123.partial" in log
    assert "removed 4567.prefix" in log


def test_they_go_with_the_model(server: Server) -> None:
    for name in ("Ann?", "Bob?", "Cid?"):
        ask(server, name)
    await_snapshot(server)
    server.client.request("DELETE", "/api/delete", json={"model": TINY}).raise_for_status()
    server.client.get("/api/tags").raise_for_status()
    assert snapshots(server) == []


def test_they_go_when_the_setting_is_taken_back(server: Server) -> None:
    for name in ("Ann?", "Bob?", "Cid?"):
        ask(server, name)
    await_snapshot(server)
    server.kill()
    del server.environment["APPLIANCE_PREFIX_SNAPSHOT_BYTES"]
    server.start()
    ask(server, "Dee?")
    assert cached_tokens(server) == 0
    assert snapshots(server) == []
