"""Debian's docker-registry on the loopback address, and a way to it that breaks, cuts and garbles."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.registry.fake import CONFIG, LAYER, MANIFEST, digest_of

PATIENCE_S = 120
CHUNK_BYTES = 64 << 10

needs_docker_registry = pytest.mark.skipif(
    shutil.which("docker-registry") is None, reason="docker-registry is not installed"
)


@contextlib.contextmanager
def docker_registry(folder: Path) -> Iterator[str]:
    """A running registry that keeps its files in `folder`; its host and port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    folder.mkdir()
    settings = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(folder / "files")}},
        "http": {"addr": host},
    }
    config = folder / "config.yml"
    config.write_text(json.dumps(settings))  # which is YAML too
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://{host}/v2/", trust_env=False)
                break
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        yield host
    finally:
        process.kill()
        process.wait()


def put_model(host: str, repository: str, data: bytes) -> bytes:
    """Put a model with one layer into a registry; returns its manifest."""
    with httpx.Client(base_url=f"http://{host}/v2/{repository}/", timeout=PATIENCE_S, trust_env=False) as client:
        for blob in (data, b"{}"):
            begun = client.post("blobs/uploads/")
            location = httpx.URL(begun.headers["location"]).copy_merge_params({"digest": digest_of(blob)})
            assert client.put(location, content=blob).status_code == 201
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digest_of(b"{}"), "size": 2},
            "layers": [{"mediaType": f"{LAYER}model", "digest": digest_of(data), "size": len(data)}],
        }
        raw = json.dumps(manifest, indent=1).encode()
        assert client.put("manifests/latest", content=raw, headers={"Content-Type": MANIFEST}).status_code == 201
    return raw


class HostileProxy:
    """Stands before a registry and spoils what it sends of one blob.

    Of every three answers one is broken off and one ends early without saying so. The bytes at `garbled` are wrong the
    first time. `fetched` counts how often each byte of the blob was sent.
    """

    def __init__(self, registry: str, digest: str, size: int, garbled: int) -> None:
        self.fetched = np.zeros(size, np.uint8)
        self.sent_bytes = 0
        self.answers = 0
        self._registry = registry
        self._digest = digest
        self._garbled = {garbled}
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                """Keep the test's output clean."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """The other end was killed."""

        self.http = Server(("127.0.0.1", 0), Handler)
        self.http.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHUNK_BYTES)
        self.host = f"127.0.0.1:{self.http.server_port}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Pass a request on and its answer back, spoiled if it is of the blob."""
        wanted = {name: value for name, value in handler.headers.items() if name != "Connection"}
        with contextlib.closing(HTTPConnection(self._registry, timeout=PATIENCE_S)) as upstream:
            upstream.request(handler.command, handler.path, headers=wanted)
            with upstream.getresponse() as answer:
                self._pass_on(handler, answer)

    def _pass_on(self, handler: BaseHTTPRequestHandler, answer: HTTPResponse) -> None:
        given = dict(answer.getheaders())
        place = re.fullmatch(r"bytes (\d+)-(\d+)/\d+", answer.getheader("Content-Range", ""))
        if self._digest not in handler.path or not place:
            body = answer.read()
            handler.send_response(answer.status)
            for name, value in given.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(body)
            return
        self._spoil(handler, answer, int(place[1]), int(place[2]) + 1)

    def _spoil(self, handler: BaseHTTPRequestHandler, answer: HTTPResponse, start: int, end: int) -> None:
        with self._lock:
            self.answers += 1
            kind = self.answers % 3
        last = start + int((end - start) * (0.3 + 0.6 * ((self.answers * 7919) % 100) / 100)) if kind else end
        told = last if kind == 1 else end  # 1: less than was asked for; 2: broken off
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{told - 1}/{len(self.fetched)}")
        handler.send_header("Content-Length", str(told - start))
        handler.end_headers()
        position = start
        while position < last:
            data = answer.read(min(CHUNK_BYTES, last - position))
            handler.wfile.write(self._garble(position, data))
            self.fetched[position : position + len(data)] += 1
            position += len(data)
            with self._lock:
                self.sent_bytes += len(data)
        handler.close_connection = True

    def _garble(self, position: int, data: bytes) -> bytes:
        with self._lock:
            hit = next((at for at in self._garbled if position <= at < position + len(data)), None)
            self._garbled.discard(-1 if hit is None else hit)
        if hit is None:
            return data
        at = hit - position
        return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


@contextlib.contextmanager
def hostile_proxy(registry: str, data: bytes, garbled: int) -> Iterator[HostileProxy]:
    """A proxy for the length of a test."""
    proxy = HostileProxy(registry, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data), garbled)
    with proxy.http:
        thread = threading.Thread(target=proxy.http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.http.shutdown()
            thread.join()
