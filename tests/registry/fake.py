"""A registry in a thread of this process: Ollama's ways, Docker's, and bad ones."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LAYER = "application/vnd.ollama.image."
CONFIG = "application/vnd.docker.container.image.v1+json"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


Fault = Callable[["Handler", bytes], bytes | None]
"""Sees the body of a range before it is sent; returns what to send instead, None when it has answered itself."""


@dataclass
class FakeRegistry:
    """What it holds and how it behaves; `asked` is every request.

    `token` has to be presented, and is given out at /token; `accepted` is another proof to present. `storage` is where
    blobs are redirected to. `faults` are used up one by one, each by the next range that is asked for.
    """

    url: str = ""
    manifests: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    ranges_sent: list[tuple[str, range]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    token: str = ""
    challenge: str = ""
    accepted: str = ""
    ranges: bool = True
    storage: str = ""
    pause_s: float = 0.0
    redirects_uploads: bool = False
    uploads: dict[str, bytes] = field(default_factory=dict)
    committed: dict[str, dict[str, str]] = field(default_factory=dict)
    mountable: bool = False

    @property
    def host(self) -> str:
        return self.url.partition("://")[2]

    @property
    def sent(self) -> Counter[tuple[str, int]]:
        """How often each byte of a blob was sent."""
        return Counter((digest, at) for digest, span in self.ranges_sent for at in span)

    @property
    def handler(self) -> type[Handler]:
        """What serves it."""
        return type("BoundHandler", (Handler,), {"registry": self})

    def add(self, repository: str, tag: str = "latest", config: bytes = b"{}", **layers: bytes) -> bytes:
        """Hold a model, its layers by kind; returns its manifest, which is not written as this server would."""
        parts = [
            {"mediaType": LAYER + kind, "digest": digest_of(data), "size": len(data)} for kind, data in layers.items()
        ]
        manifest = {
            "layers": parts,
            "config": {"mediaType": CONFIG, "digest": digest_of(config), "size": len(config)},
            "mediaType": MANIFEST,
            "schemaVersion": 2,
        }
        self.blobs |= {digest_of(data): data for data in (config, *layers.values())}
        raw = json.dumps(manifest, indent=3).encode()
        self.manifests[f"{repository}:{tag}"] = raw
        return raw

    def paths(self, method: str = "GET") -> list[str]:
        """The paths that were asked for."""
        return [asked.path for asked in self.asked if asked.method == method]


class Handler(BaseHTTPRequestHandler):
    """One connection to the registry."""

    protocol_version = "HTTP/1.1"
    registry: FakeRegistry

    def handle_any(self) -> None:
        registry = self.registry
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        registry.asked.append(Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        path, _, query = self.path.partition("?")
        if path == "/token":
            return self.reply(200, json.dumps({"token": registry.token}).encode())
        if path.startswith("/storage/"):
            return self.storage(path.removeprefix("/storage/"), body)
        wanted = registry.accepted or (registry.token and f"Bearer {registry.token}")
        if wanted and self.headers.get("Authorization") != wanted:
            challenge = (
                registry.challenge or f'Bearer realm="{registry.url}/token",service="fake",scope="a:b:pull c:d:pull"'
            )
            return self.reply(401, b"{}", {"WWW-Authenticate": challenge})
        if match := re.fullmatch(r"/v2/(.+)/manifests/(.+)", path):
            return self.manifest(*match.groups(), body)
        if match := re.fullmatch(r"/v2/(.+)/blobs/uploads/(.*)", path):
            return self.upload(*match.groups(), query, body)
        if match := re.fullmatch(r"/v2/(.+)/blobs/(.+)", path):
            return self.blob(match[2])
        self.reply(404)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = handle_any

    def reply(self, status: int, body: bytes = b"", headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def manifest(self, repository: str, tag: str, body: bytes) -> None:
        key = f"{repository}:{tag}"
        if self.command == "PUT":
            self.registry.manifests[key] = body
            return self.reply(201)
        found = self.registry.manifests.get(key)
        self.reply(200, found, {"Content-Type": MANIFEST}) if found is not None else self.reply(
            404, b"no such manifest"
        )

    def blob(self, digest: str) -> None:
        if digest not in self.registry.blobs:
            return self.reply(404)
        if self.registry.storage and self.command == "GET":
            return self.reply(307, headers={"Location": f"{self.registry.storage}/storage/{digest}"})
        self.ranged(digest)

    def storage(self, name: str, body: bytes) -> None:
        if self.command == "PUT":
            self.registry.uploads[name] = body
            return self.reply(200)
        self.ranged(name) if name in self.registry.blobs else self.reply(403, b"expired")

    def ranged(self, digest: str) -> None:
        data = self.registry.blobs[digest]
        if self.command == "HEAD":
            return self.reply(200, data)
        start, end, status, headers = 0, len(data), 200, {}
        if self.registry.ranges and (match := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))):
            start, end, status = int(match[1]), min(int(match[2]) + 1, len(data)), 206
            headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
        sending: bytes | None = data[start:end]
        if self.registry.pause_s:
            time.sleep(self.registry.pause_s)
        if self.registry.faults and sending:
            sending = self.registry.faults.pop(0)(self, sending)
        if sending is None:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(end - start), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sending)
        self.registry.ranges_sent.append((digest, range(start, start + len(sending))))
        if len(sending) < end - start:
            self.close_connection = True

    def upload(self, repository: str, upload: str, query: str, body: bytes) -> None:
        registry = self.registry
        given = dict(part.split("=", 1) for part in query.replace("%3A", ":").replace("%2F", "/").split("&") if part)
        if self.command == "POST":
            if registry.mountable and given.get("from"):
                return self.reply(201)
            name = f"upload-{len(registry.uploads)}"
            registry.uploads[name] = b""
            return self.reply(202, headers={"Location": f"/v2/{repository}/blobs/uploads/{name}?state=0"})
        if self.command == "PATCH":
            location = f"/v2/{repository}/blobs/uploads/{upload}?state={self.headers['Content-Range']}"
            if registry.redirects_uploads:
                storage = f"{registry.storage}/storage/{upload}.{self.headers['Content-Range']}"
                return self.reply(307, headers={"Location": storage, "Docker-Upload-Location": location})
            if registry.faults:
                registry.faults.pop(0)(self, body)
                self.close_connection = True
                return
            registry.uploads[upload] += body
            return self.reply(202, headers={"Location": location})
        registry.committed[given["digest"]] = given
        registry.blobs[given["digest"]] = registry.uploads[upload]
        self.reply(201)

    def log_message(self, *_: Any) -> None:
        """Keep the test's output clean."""


def cut(after: int) -> Fault:
    """Close the connection after so many bytes."""
    return lambda handler, data: data[:after]


def garble(handler: Handler, data: bytes) -> bytes:
    """Change a byte in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


def fail(status: int, body: bytes = b"") -> Fault:
    """Answer with an error."""

    def fault(handler: Handler, data: bytes) -> None:
        handler.reply(status, body)

    return fault


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A running HTTP server; its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()
            thread.join()


@contextmanager
def serving() -> Iterator[FakeRegistry]:
    """A running registry."""
    registry = FakeRegistry()
    with listening(registry.handler) as registry.url:
        yield registry
