"""kill -9 in the middle of a create, an upload and a conversion: afterwards the store is as it was before."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.server.daemon import Server
from tests.tiny_model import write_tiny_gguf

PATIENCE_S = 60


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server with the model `before`, to be killed and started again."""
    server = Server(tmp_path / "models")
    server.start()
    server.create("before", write_tiny_gguf(tmp_path / "before.gguf"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def large_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that its conversion can be caught in the middle."""
    path = tmp_path_factory.mktemp("gguf") / "large.gguf"
    return write_tiny_gguf(path, layers=6, hidden=512, heads=8, kv_heads=8, intermediate=2048, seed=3)


def files(models: Path) -> set[str]:
    return {str(path.relative_to(models)) for path in models.rglob("*") if path.is_file()}


def check_as_before(server: Server, before: set[str]) -> None:
    """Start again: only the old model is there, it works, and nothing half-made is left."""
    server.start()
    assert [model["name"] for model in server.client.get("/api/tags").json()["models"]] == ["before:latest"]
    body = {"model": "before", "prompt": "hello", "stream": False, "options": {"num_predict": 3}}
    assert server.client.post("/api/generate", json=body).status_code == 200
    assert files(server.models) == before


def converter_of(server: Server) -> psutil.Process | None:
    """The server's converter process, if one runs."""
    for child in psutil.Process(server.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "converters" in child.cmdline():
                return child
    return None


def wait_for_conversion(server: Server) -> psutil.Process:
    """Wait until a conversion has begun to write its bundle."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if any(server.models.glob("onnx/*/*.partial-*/*")) and (converter := converter_of(server)):
            return converter
        time.sleep(0.002)
    raise AssertionError("no conversion began")


def create_in_background(server: Server, file: Path, answers: list[str]) -> threading.Thread:
    body = {"model": "after", "files": {"x.gguf": server.upload(file)}, "stream": False}

    def create() -> None:
        with contextlib.suppress(httpx.HTTPError):
            answers.append(httpx.post(f"{server.url}/api/create", json=body, timeout=PATIENCE_S).text)

    thread = threading.Thread(target=create)
    thread.start()
    return thread


def test_killed_while_creating(server: Server, large_gguf: Path) -> None:
    before = files(server.models)
    creating = create_in_background(server, large_gguf, [])
    converter = wait_for_conversion(server)
    server.kill()
    with contextlib.suppress(psutil.NoSuchProcess):
        converter.kill()  # a power cut takes both
        converter.wait(PATIENCE_S)
    creating.join()
    check_as_before(server, before)


def test_a_killed_converter_is_an_error_and_leaves_nothing(server: Server, large_gguf: Path) -> None:
    answers: list[str] = []
    creating = create_in_background(server, large_gguf, answers)
    wait_for_conversion(server).kill()
    creating.join()
    assert "ended unexpectedly" in answers[0]
    assert not list(server.models.glob("onnx/*/*.partial-*"))
    assert [model["name"] for model in server.client.get("/api/tags").json()["models"]] == ["before:latest"]
    again: list[str] = []
    create_in_background(server, large_gguf, again).join()
    assert again == ['{"status":"success"}']


def test_a_client_that_leaves_a_create_ends_the_conversion(server: Server, large_gguf: Path) -> None:
    body = {"model": "after", "files": {"x.gguf": server.upload(large_gguf)}}
    with server.client.stream("POST", "/api/create", json=body) as answer:
        lines = answer.iter_lines()  # held: dropping it would close the connection
        assert "status" in next(lines)
        converter = wait_for_conversion(server)
    converter.wait(PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while list(server.models.glob("onnx/*/*.partial-*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert [model["name"] for model in server.client.get("/api/tags").json()["models"]] == ["before:latest"]


def test_killed_while_uploading(server: Server) -> None:
    before = files(server.models)
    data = os.urandom(1 << 20)
    digest = hashlib.sha256(data).hexdigest()
    halfway, killed = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        yield data[: len(data) // 2]
        halfway.set()
        killed.wait(PATIENCE_S)
        yield data[len(data) // 2 :]

    def upload() -> None:
        with contextlib.suppress(httpx.HTTPError):
            httpx.post(f"{server.url}/api/blobs/sha256:{digest}", content=body(), timeout=PATIENCE_S)

    thread = threading.Thread(target=upload)
    thread.start()
    halfway.wait(PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while files(server.models) == before:  # until the first half has reached the disk's folder
        assert time.monotonic() < deadline
        time.sleep(0.01)
    server.kill()
    killed.set()
    thread.join()
    server.start()
    assert server.client.head(f"/api/blobs/sha256:{digest}").status_code == 404
    assert not [name for name in files(server.models) if digest in name]


@pytest.mark.slow
def test_killed_over_and_over_while_creating(server: Server, tmp_path: Path) -> None:
    """At whatever moment: the old model stays, the new one is there whole or not at all."""
    gguf = write_tiny_gguf(tmp_path / "after.gguf", seed=5)
    for delay_ms in range(0, 1200, 150):
        creating = create_in_background(server, gguf, [])
        time.sleep(delay_ms / 1000)
        server.kill()
        creating.join()
        server.start()
        names = {model["name"] for model in server.client.get("/api/tags").json()["models"]}
        assert names - {"after:latest"} == {"before:latest"}
        for name in names:
            body = {"model": name, "prompt": "hello", "stream": False, "options": {"num_predict": 2}}
            assert server.client.post("/api/generate", json=body).status_code == 200
        if "after:latest" in names:
            server.client.request("DELETE", "/api/delete", json={"model": "after"})
