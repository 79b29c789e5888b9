"""A streaming HTTP client that takes little from the server on the same cores.

While a server works it only notes when bytes arrive; what they say is read afterwards.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from scripts.bench.dialects import Ask, Dialect

T = TypeVar("T")
PATIENCE_S = 600.0
Arrivals = list[tuple[float, bytes]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. Times are time.perf_counter() seconds; `pieces` are the arrivals of events with text."""

    sent: float
    end: float
    pieces: tuple[float, ...]
    text: str
    prompt_tokens: int
    tokens: int
    prefill_s: float
    """What the server says it spent on the part of the prompt that it had to read."""

    @property
    def first(self) -> float:
        """When the first text came, or the end, where the first token was the one that ends the answer."""
        return self.pieces[0] if self.pieces else self.end

    @property
    def first_s(self) -> float:
        """Seconds from the request to the first token."""
        return self.first - self.sent

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between events with text."""
        return [after - before for before, after in zip(self.pieces, self.pieces[1:], strict=False)]


@dataclass(slots=True)
class Exchange(asyncio.Protocol):
    """A request on a connection of its own, which the server closes after the answer."""

    request: bytes
    sent: float = 0.0
    arrivals: Arrivals = field(default_factory=list)
    closed: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self.transport = cast(asyncio.Transport, transport)
        self.sent = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Note when which bytes came."""
        self.arrivals.append((time.perf_counter(), data))

    def connection_lost(self, exc: Exception | None) -> None:
        """The answer is whole, or broken off; reading it will tell."""
        if not self.closed.done():
            self.closed.set_result(None)

    def abandon(self) -> None:
        """Leave without waiting for the rest."""
        if self.transport:
            self.transport.abort()


async def send(url: str, dialect: Dialect, ask: Ask) -> Exchange:
    """Send a request without waiting for its answer."""
    address = urlsplit(url)
    body = json.dumps(dialect.body(ask)).encode()
    head = (
        f"POST {dialect.path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    _, exchange = await loop.create_connection(
        lambda: Exchange(head.encode() + body), address.hostname or "", address.port or 80
    )
    return exchange


async def ask(url: str, dialect: Dialect, question: Ask) -> Exchange:
    """Send a request and wait for all of the answer."""
    exchange = await send(url, dialect, question)
    await asyncio.wait_for(exchange.closed, PATIENCE_S)
    return exchange


def ask_all(url: str, dialect: Dialect, clients: Sequence[Sequence[Ask]]) -> list[Answer]:
    """The answers of clients that ask at the same time, each its questions one after the other."""

    async def client(questions: Sequence[Ask]) -> list[Exchange]:
        return [await ask(url, dialect, question) for question in questions]

    async def everyone() -> list[list[Exchange]]:
        return await asyncio.gather(*(client(questions) for questions in clients))

    return [read(exchange, dialect) for exchanges in run(everyone()) for exchange in exchanges]


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run on the lighter event loop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    make: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(work)


def read(exchange: Exchange, dialect: Dialect, *, whole: bool = True) -> Answer:
    """What the bytes of an exchange say. Raises RuntimeError for an error, and for a `whole` answer cut short."""
    status, events = replay(exchange.arrivals)
    if status != 200:
        raise RuntimeError(
            f"{dialect.path} answered {status}: {b''.join(data for _, data in exchange.arrivals)[-500:]!r}"
        )
    pieces, text = [], []
    prompt_tokens = tokens = 0
    prefill_s = 0.0
    done = False
    for when, event in events:
        if "error" in event:
            raise RuntimeError(f"{dialect.path} broke off: {event['error']}")
        if piece := dialect.text(event):
            pieces.append(when)
            text.append(piece)
        if usage := dialect.usage(event):
            prompt_tokens, tokens, prefill_s = usage
            done = True
    if whole and not done:
        raise RuntimeError(f"{dialect.path} answered without an end")
    end = exchange.arrivals[-1][0]
    return Answer(exchange.sent, end, tuple(pieces), "".join(text), prompt_tokens, tokens, prefill_s)


def replay(arrivals: Arrivals) -> tuple[int, list[tuple[float, dict[str, Any]]]]:
    """The status (0: no answer) and the JSON objects of a body of lines or server-sent events, with their arrival."""
    buffer = b""
    status = 0
    chunked = False
    lines = b""
    events: list[tuple[float, dict[str, Any]]] = []
    for when, data in arrivals:
        buffer += data
        if not status:
            head, found, rest = buffer.partition(b"\r\n\r\n")
            if not found:
                continue
            status = int(head.split(b" ", 2)[1])
            chunked = b"transfer-encoding: chunked" in head.lower()
            buffer = rest
        if chunked:
            body, buffer = dechunk(buffer)
        else:
            body, buffer = buffer, b""
        lines += body
        *whole, lines = lines.split(b"\n")
        events += ((when, event) for event in objects(whole))
    events += ((arrivals[-1][0], event) for event in objects([lines]))
    return status, events


def dechunk(buffer: bytes) -> tuple[bytes, bytes]:
    """The content of all whole chunks (RFC 9112, section 7.1) at the beginning of the buffer, and what is left."""
    body = b""
    while True:
        size, found, rest = buffer.partition(b"\r\n")
        if not found:
            return body, buffer
        length = int(size.split(b";")[0], 16)
        if len(rest) < length + 2:
            return body, buffer
        body += rest[:length]
        buffer = rest[length + 2 :]


def objects(lines: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON objects among the lines; the `data:` of an event is taken off."""
    for line in lines:
        text = line.strip().removeprefix(b"data:").strip()
        if text.startswith(b"{"):
            yield json.loads(text)
