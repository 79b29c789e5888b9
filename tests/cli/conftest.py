"""A server that answers from a script, and the command line run against it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from appliance.cli.main import main

Reply = tuple[int, bytes]

SHOW = {"details": {"family": "llama", "parameter_size": "134.52M", "quantization_level": "Q4_1"}, "model_info": None}
DONE = {"done": True, "done_reason": "stop", "total_duration": 2_000_000_000, "eval_count": 2, "eval_duration": 10**9}


@dataclass
class Server:
    """Answers each (method, path) with what `says` laid down for it, and keeps what it was asked."""

    url: str = ""
    replies: dict[tuple[str, str], Reply] = field(default_factory=dict)
    stalls: dict[str, tuple[bytes, list[str]]] = field(default_factory=dict)
    cuts: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)

    def says(self, method: str, path: str, *events: Any, status: int = 200) -> None:
        """Answer with these objects, one a line; only the last when no stream is wanted; none is an empty body."""
        self.replies[method, path] = status, b"".join(json.dumps(event).encode() + b"\n" for event in events)

    def stall(self, path: str, event: Any, log: list[str]) -> None:
        """Answer the next request to this path with one object and then nothing, until the client is gone."""
        self.stalls[path] = json.dumps(event).encode() + b"\n", log

    def cut(self, path: str, event: Any) -> None:
        """Answer the next request to this path with one object, and close the connection before its end."""
        self.cuts[path] = json.dumps(event).encode() + b"\n"

    def asked(self, path: str) -> list[Any]:
        """The JSON bodies that came to this path."""
        return [json.loads(body) for _, at, body in self.requests if at == path and body]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A scripted server, where OLLAMA_HOST points; the home folder is an empty one."""
    script = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            asked = self.rfile.read(length)
            script.requests.append((self.command, self.path, asked))
            if stall := script.stalls.pop(self.path, None):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(stall[0])
                self.connection.settimeout(20)
                stall[1].append("client gone" if self.connection.recv(1) == b"" else "client spoke")
                self.close_connection = True
                return
            if cut := script.cuts.pop(self.path, None):
                self.send_response(200)
                self.send_header("Content-Length", str(len(cut) + 1000))
                self.end_headers()
                self.wfile.write(cut)
                self.close_connection = True
                return
            status, body = script.replies.get((self.command, self.path), (404, b'{"error": "404 page not found"}'))
            if b'"stream":false' in asked:
                body = body[body.rfind(b"\n", 0, -1) + 1 :]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)

        do_GET = do_POST = do_DELETE = do_HEAD = answer

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        script.url = f"http://127.0.0.1:{http.server_port}"
        monkeypatch.setenv("OLLAMA_HOST", script.url)
        for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
            monkeypatch.setenv(variable, str(tmp_path))
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield script
        http.shutdown()
        thread.join()


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def appliance(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs the command line with these arguments."""

    def run(*arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        captured = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Outcome(end.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def model(server: Server) -> Server:
    """A server with the model `m`, which always says "Hello there"."""
    server.says("POST", "/api/show", SHOW)
    server.says("POST", "/api/generate", {"response": "Hello"}, {"response": " there"}, {"response": "", **DONE})
    server.says(
        "POST",
        "/api/chat",
        {"message": {"role": "assistant", "content": "Hello"}},
        {"message": {"role": "assistant", "content": " there"}},
        {"message": {"role": "assistant", "content": ""}, **DONE},
    )
    return server
