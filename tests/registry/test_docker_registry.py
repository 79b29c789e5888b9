"""Real servers: ours, killed over and over while it pulls, and Debian's docker-registry, behind a way that spoils."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.registry.docker import (
    PATIENCE_S,
    HostileProxy,
    docker_registry,
    hostile_proxy,
    needs_docker_registry,
    put_model,
)
from tests.registry.fake import digest_of
from tests.server.daemon import Server, serving
from tests.tiny_model import write_tiny_gguf

MB = 1_000_000

pytestmark = needs_docker_registry


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The docker-registry's host and port."""
    with docker_registry(tmp_path_factory.mktemp("docker") / "registry") as host:
        yield host


def blobs(server: Server) -> set[str]:
    return {path.name for path in (server.models / "blobs").iterdir()}


def pull_in_background(server: Server, model: str) -> threading.Thread:
    def pull() -> None:
        with contextlib.suppress(httpx.HTTPError):
            httpx.post(f"{server.url}/api/pull", json={"model": model, "insecure": True}, timeout=PATIENCE_S)

    thread = threading.Thread(target=pull)
    thread.start()
    return thread


def kill_at(server: Server, proxy: HostileProxy, sent: float, model: str) -> None:
    """Pull until the proxy has sent so many bytes in all, then kill the server; nothing half-made may be seen."""
    pulling = pull_in_background(server, model)
    deadline = time.monotonic() + PATIENCE_S
    while proxy.sent_bytes < sent:
        assert time.monotonic() < deadline
        assert pulling.is_alive()
        time.sleep(0.001)
    server.kill()
    pulling.join()
    server.start()
    assert server.client.get("/api/tags").json() == {"models": []}


@pytest.mark.parametrize(
    ("size", "kills"), [(30 * MB, 2), pytest.param(200 * MB, 5, marks=pytest.mark.slow)], ids=["30MB", "200MB"]
)
def test_killed_while_pulling_from_a_registry_that_spoils(host: str, tmp_path: Path, size: int, kills: int) -> None:
    data = random.Random(size).randbytes(size)
    digest = digest_of(data)
    name = digest.replace(":", "-")
    manifest = put_model(host, "lib/large", data)
    with hostile_proxy(host, data, garbled=size // 50) as proxy, serving(tmp_path / "models") as server:
        model = f"{proxy.host}/lib/large"
        for kill in range(kills):
            kill_at(server, proxy, size * (kill + 1) / (kills + 2), model)
            assert name not in blobs(server)
        events = server.client.post(
            "/api/pull", json={"model": model, "insecure": True}, timeout=PATIENCE_S
        ).text.splitlines()
        assert events[-1] == '{"status":"success"}'
        assert blobs(server) == {name, digest_of(b"{}").replace(":", "-")}
        assert (server.models / "blobs" / name).read_bytes() == data
        assert (server.models / "manifests" / proxy.host / "lib/large/latest").read_bytes() == manifest
        assert proxy.answers > 3  # some were spoiled
        assert proxy.fetched.min() >= 1
        assert proxy.fetched.max() == 2
        assert "fetching it again to see what differs" in server.log.read_text()  # the garbled byte was found


def answers(server: Server, model: str) -> list[str]:
    options = {"temperature": 0, "seed": 1, "num_predict": 12}
    bodies = [{"model": model, "prompt": prompt, "stream": False, "options": options} for prompt in ("Hello", "Once")]
    return [server.client.post("/api/generate", json=body).json()["response"] for body in bodies]


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["tiny", "smollm2"])
def test_pushed_deleted_and_pulled_again(host: str, tmp_path: Path, real: bool, request: pytest.FixtureRequest) -> None:
    gguf = request.getfixturevalue("smollm2_gguf") if real else write_tiny_gguf(tmp_path / "tiny.gguf")
    model = f"{host}/lib/{'smollm2' if real else 'tiny'}:v1"
    with serving(tmp_path / "models") as server:
        server.create(model, gguf, system="You are terse.", parameters={"top_k": 3})
        before = server.client.get("/api/tags").json()["models"][0]
        said = answers(server, model)
        pushed = server.client.post("/api/push", json={"model": model, "insecure": True, "stream": False})
        assert pushed.json() == {"status": "success"}
        assert server.client.request("DELETE", "/api/delete", json={"model": model}).status_code == 200
        assert blobs(server) == set()
        pulled = server.client.post("/api/pull", json={"model": model, "insecure": True, "stream": False})
        assert (pulled.json(), pulled.headers["content-type"]) == ({"status": "success"}, "application/json")
        after = server.client.get("/api/tags").json()["models"][0]
        assert after | {"modified_at": ""} == before | {"modified_at": ""}
        assert answers(server, model) == said
