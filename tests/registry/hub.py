"""The Hugging Face Hub in a thread of this process, as its HTTP API is documented."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.registry.fake import FakeRegistry, digest_of, listening

COMMIT = "607a30d783dfa663caf39e06633721c8d4cfcd7e"


@dataclass
class FakeHub:
    """Repositories, by name, of files, by path. Files from `large_from` bytes on lie in `storage`, on another host.

    `token` has to be presented for what is in `gated`. `asked` is every request: its path and its Authorization.
    """

    storage: FakeRegistry
    url: str = ""
    large_from: int = 5_000
    token: str = ""
    gated: set[str] = field(default_factory=set)
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def add(self, repository: str, files: Mapping[str, bytes]) -> None:
        self.repositories[repository] = dict(files)
        self.storage.blobs |= {digest_of(data): data for data in files.values()}

    def add_folder(self, repository: str, folder: Path) -> None:
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        self.add(repository, {path.relative_to(folder).as_posix(): path.read_bytes() for path in found})

    def listing(self, repository: str) -> dict[str, Any]:
        """The answer about a commit, with `blobs=true`."""
        siblings: list[dict[str, Any]] = []
        for path, data in self.repositories[repository].items():
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            siblings.append({"rfilename": path, "size": len(data), "blobId": git})
            if len(data) >= self.large_from:
                siblings[-1]["lfs"] = {"sha256": digest_of(data)[7:], "size": len(data), "pointerSize": 134}
        return {"id": repository, "sha": COMMIT, "private": False, "gated": False, "siblings": siblings}


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_GET(self) -> None:
        hub = self.hub
        hub.asked.append((self.path, self.headers.get("Authorization", "")))
        path, _, query = self.path.removeprefix("/mirror").partition("?")
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/main", path)
        file = re.fullmatch(rf"/([^/]+/[^/]+)/resolve/{COMMIT}/(.+)", path)
        match = listing or file
        files = hub.repositories.get(match[1]) if match else None
        if not match or files is None:
            return self.reply(401, b'{"error":"Invalid username or password."}')  # so it says to strangers
        if match[1] in hub.gated and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.reply(401, b'{"error":"Access to this model is restricted."}')
        if listing:
            assert query == "blobs=true"
            return self.reply(200, json.dumps(hub.listing(match[1])).encode())
        data = files[unquote(match[2])]
        if len(data) < hub.large_from:
            return self.reply(200, data)
        self.reply(302, headers={"Location": f"{hub.storage.url}/storage/{digest_of(data)}"})

    def reply(self, status: int, body: bytes = b"", headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep the test's output clean."""


@contextmanager
def serving(storage: FakeRegistry) -> Iterator[FakeHub]:
    """A running hub."""
    hub = FakeHub(storage)
    with listening(type("HubHandler", (Handler,), {"hub": hub})) as hub.url:
        yield hub
