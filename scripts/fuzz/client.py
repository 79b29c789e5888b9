"""A request as it goes over the wire, and one HTTP exchange that cannot last longer than it may."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from dataclasses import dataclass
from io import BufferedReader, BytesIO

MAX_ANSWER_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Request:
    """What is sent, to the byte. `path` is the target as it stands in the first line."""

    method: str
    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    chunked: bool = False

    def encode(self) -> bytes:
        """The whole request; the length of the body is always right."""
        framing = ("Transfer-Encoding", "chunked") if self.chunked else ("Content-Length", str(len(self.body)))
        given = {name.lower() for name, _ in self.headers}
        host = () if "host" in given else (("Host", "localhost"),)
        fields = (*host, *self.headers, framing, ("Connection", "close"))
        head = f"{self.method} {self.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields)
        return head.encode("latin-1", "replace") + b"\r\n" + (self._chunks() if self.chunked else self.body)

    def _chunks(self) -> bytes:
        pieces = [self.body[at : at + 1000] for at in range(0, len(self.body), 1000)]
        return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"

    def __str__(self) -> str:
        body = f"{self.body[:300]!r}{'…' if len(self.body) > 300 else ''}"
        return f"{self.method} {self.path[:200]} {list(self.headers)} {body}"


@dataclass(frozen=True)
class Answer:
    """What came back, all of it."""

    status: int
    content_type: str
    body: bytes
    seconds: float

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")


class Hang(Exception):
    """No whole answer within the time that it may take."""


def exchange(port: int, request: Request, limit_s: float) -> Answer:
    """Send a request over a connection of its own. Raises Hang; ConnectionError where the server hung up."""
    start = time.monotonic()
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=limit_s) as connection:
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused early; the answer may be there
                connection.sendall(request.encode())
            while piece := connection.recv(65536):
                received += piece
                connection.settimeout(max(0.001, limit_s - (time.monotonic() - start)))
                if len(received) > MAX_ANSWER_BYTES:
                    raise Hang(f"more than {MAX_ANSWER_BYTES} bytes")
        except TimeoutError as error:
            raise Hang(f"no end after {limit_s:g} s, {len(received)} bytes so far") from error
        except ConnectionResetError:
            pass  # the server closed while we were still sending
    if not received:
        raise ConnectionError("the server hung up without an answer")
    return _parsed(bytes(received), request.method, time.monotonic() - start)


class _Received:
    """Bytes in the place of a socket, for http.client's parser."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: object) -> BufferedReader:
        return BufferedReader(BytesIO(self._data))  # type: ignore[arg-type]


def _parsed(data: bytes, method: str, seconds: float) -> Answer:
    response = http.client.HTTPResponse(_Received(data), method=method)  # type: ignore[arg-type]
    try:
        response.begin()
        body = response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"not a whole HTTP answer: {error!r}: {data[:300]!r}") from error
    return Answer(response.status, response.getheader("content-type") or "", body, seconds)
