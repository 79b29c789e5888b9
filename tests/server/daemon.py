"""A real server in a process of its own, on a free port, over a store of its own."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

PATIENCE_S = 180


class Server:
    """A running server. `client` speaks to it."""

    def __init__(self, models: Path, **environment: str) -> None:
        self.models = models
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("OLLAMA_", "APPLIANCE_"))
        }
        self.environment = inherited | {"OLLAMA_HOST": self.url, "OLLAMA_MODELS": str(models)} | environment
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE_S)
        self.log = models.parent / f"{models.name}.log"

    def start(self) -> None:
        """Start and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "appliance", "serve"], env=self.environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(httpx.TransportError):
                if self.client.get("/").status_code == 200:
                    return
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it as systemd would; it must leave in peace."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(PATIENCE_S)

    def upload(self, file: Path) -> str:
        """Put a file into the store; returns its digest."""
        data = file.read_bytes()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert self.client.post(f"/api/blobs/{digest}", content=data).status_code in (200, 201)
        return digest

    def create(self, name: str, file: Path, **more: Any) -> None:
        """Make a model of a GGUF file."""
        body = {"model": name, "files": {file.name: self.upload(file)}, "stream": False, **more}
        answer = self.client.post("/api/create", json=body)
        assert answer.json() == {"status": "success"}, answer.text


@contextlib.contextmanager
def serving(models: Path, **environment: str) -> Iterator[Server]:
    """A server for the length of a test."""
    server = Server(models, **environment)
    server.start()
    try:
        yield server
    finally:
        server.stop()
