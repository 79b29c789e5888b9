"""Servers on free ports over temporary folders, ended by their process id whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from scripts.bench.client import Answer, ask_all
from scripts.bench.dialects import MODEL, Ask, Dialect, Message, Ollama, OpenAI
from scripts.bench.machine import memory_mb

START_S = 120.0
STOP_S = 30.0
OTHERS_SETTINGS = ("OLLAMA_", "APPLIANCE_", "LLAMA_ARG_")


@dataclass(frozen=True, slots=True)
class Server:
    """A running server that answers."""

    url: str
    pid: int
    dialect: Dialect
    ready_s: float
    """Seconds from the start of the process until it answered."""

    def ask(self, *clients: Sequence[Ask]) -> list[Answer]:
        """The answers of clients that ask at the same time."""
        return ask_all(self.url, self.dialect, clients)

    def count(self, message: Message) -> int:
        """The tokens of a prompt of this one message."""
        return self.ask([Ask((message,), tokens=1)])[0].prompt_tokens

    def memory_mb(self) -> dict[str, float]:
        """Resident memory, see machine.memory_mb."""
        return memory_mb(self.pid)


@contextlib.contextmanager
def appliance(work: Path, settings: dict[str, str]) -> Iterator[Server]:
    """Our server over the store in `work`, with `settings` as its environment."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        "OLLAMA_HOST": url,
        "OLLAMA_MODELS": str(work / "models"),
        "OLLAMA_KEEP_ALIVE": "-1",
        "XDG_CONFIG_HOME": str(work / "config"),
    }
    command = [sys.executable, "-m", "appliance", "serve"]
    with running(command, url, "/", Ollama(), work / "appliance.log", environment | settings) as server:
        yield server


@contextlib.contextmanager
def llama_server(
    binaries: Path, model: Path, *, slots: int, context: int, threads: int, work: Path, more: Sequence[str] = ()
) -> Iterator[Server]:
    """llama-server with flash attention, `slots` slots and `context` tokens in all of them together."""
    port = free_port()
    command = [str(binaries / "llama-server"), "-m", str(model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["-t", str(threads), "-np", str(slots), "-c", str(context), "-fa", "on", *more]
    with running(command, f"http://127.0.0.1:{port}", "/health", OpenAI(), work / "llama-server.log", {}) as server:
        yield server


@contextlib.contextmanager
def running(
    command: list[str], url: str, path: str, dialect: Dialect, log: Path, settings: dict[str, str]
) -> Iterator[Server]:
    """A server process from its start until `path` answers 200, to its end. Raises RuntimeError when it ends early."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS_SETTINGS)} | settings
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        wait_for(url + path, process, log)
        yield Server(url, process.pid, dialect, time.perf_counter() - started)
    finally:
        stop(process)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when `url` answers 200."""
    deadline = time.monotonic() + START_S
    with httpx.Client(timeout=5) as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if client.get(url).status_code == 200:
                    return
            if process.poll() is not None or time.monotonic() > deadline:
                trouble = f"ended with status {process.returncode}" if process.poll() is not None else "does not answer"
                raise RuntimeError(f"{process.args!r} {trouble}:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.01)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process as systemd would, and if it does not go, as a power cut would."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def install(server: Server, model: Path) -> None:
    """Give our server the model and have it converted and loaded once. Raises RuntimeError when it refuses."""
    import hashlib

    with model.open("rb") as file:
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    with httpx.Client(base_url=server.url, timeout=600) as client, model.open("rb") as file:
        client.post(f"/api/blobs/{digest}", content=iter(lambda: file.read(1 << 20), b"")).raise_for_status()
        body = {"model": MODEL, "files": {model.name: digest}, "stream": False}
        for path, request in (("/api/create", body), ("/api/generate", {"model": MODEL})):
            answer = client.post(path, json=request)
            if answer.status_code != 200 or "error" in answer.json():
                raise RuntimeError(f"{path} answered {answer.status_code}: {answer.text}")


def load(server: Server) -> None:
    """Have the model loaded, where the server does so at the first request only."""
    if isinstance(server.dialect, Ollama):
        answer = httpx.post(f"{server.url}/api/generate", json={"model": MODEL}, timeout=600)
        if answer.status_code != 200:
            raise RuntimeError(f"the model does not load: {answer.text}")
