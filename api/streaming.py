"""Answers that take a while: as a stream of lines, or whole. Either way the work ends when the client leaves.

Litestar tells a handler nothing of a client that goes away, so these responses listen for `http.disconnect`
themselves, from the first moment of the work to the last byte.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from litestar import Request, Response
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from api.encode import JSON_PLAIN, NDJSON, JSONResponse, encode
from api.errors import ErrorResponse, text_of
from appliance.errors import RequestCancelled

log = logging.getLogger(__name__)

E = TypeVar("E")
T = TypeVar("T")

Connection = tuple[Scope, Receive, Send]
Answer = Callable[[Connection], Coroutine[Any, Any, None]]


class RacedResponse(Response[T]):
    """A response that is made by `answer` while the client is there; `answer` is cancelled when it leaves."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(content=None)  # type: ignore[arg-type]
        self.answer = answer

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIResponse:
        """The ASGI application that runs `answer`."""
        return _Raced(self.answer)


class _Raced(ASGIResponse):
    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noting_send(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await while_connected(self._answer((scope, receive, noting_send)), receive)
        except RequestCancelled:
            if not started:  # afterwards nobody is there to be told, and nothing may follow
                raise


async def while_connected(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """The result of `work`. Raises RequestCancelled when the client leaves first, once `work` has ended."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise RequestCancelled
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass  # the rest of a body that nobody reads


def whole(make: Callable[[], Awaitable[Response[T]]]) -> RacedResponse[T]:
    """What `make` returns."""

    async def answer(connection: Connection) -> None:
        await _respond(await make(), connection)

    return RacedResponse(answer)


def lines(
    events: AsyncGenerator[E, None], to_json: Callable[[E], T], is_whole: Callable[[E], bool] = lambda _: False
) -> RacedResponse[T]:
    """Each event as one line of JSON, sent at once. `events` is closed however the answer ends.

    The headers wait for the first event, so an error before it is raised and gets a status of its own; a later
    error becomes a last line. A first event that `is_whole` is the answer, as ordinary JSON.
    """

    async def answer(connection: Connection) -> None:
        send = connection[2]
        started = False
        async with aclosing(events):
            try:
                async for event in events:
                    if not started and is_whole(event):
                        return await _respond(JSONResponse(to_json(event), status_code=200), connection)
                    line = encode(to_json(event)) + b"\n"
                    if not started:
                        started = True
                        await send(_head())
                    await send({"type": "http.response.body", "body": line, "more_body": True})
                    await asyncio.sleep(0)  # where nothing above has to wait, others still get their turn
            except Exception as error:
                if not started:
                    raise
                line = encode(ErrorResponse(text_of(error))) + b"\n"
                await send({"type": "http.response.body", "body": line, "more_body": True})
        if not started:
            await send(_head())
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return RacedResponse(answer)


def progress(events: AsyncGenerator[E, None], to_json: Callable[[E], T], *, stream: bool) -> RacedResponse[T]:
    """Each event as a line, or only the last one, whole. There is at least one."""
    if stream:
        return lines(events, to_json)

    async def last() -> Response[T]:
        async with aclosing(events):
            async for event in events:
                latest = event
        return JSONResponse(to_json(latest), status_code=200, media_type=JSON_PLAIN)

    return whole(last)


def raw(
    status: int, headers: Mapping[str, str], chunks: AsyncGenerator[bytes, None], *, head: bool = False
) -> RacedResponse[bytes]:
    """Bytes, as many as the headers say, or the headers alone. `chunks` is closed; after an error the connection is."""

    async def answer(connection: Connection) -> None:
        send = connection[2]
        lines = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        async with aclosing(chunks):
            await send({"type": "http.response.start", "status": status, "headers": lines})
            try:
                async for chunk in chunks:
                    if head:
                        break
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except Exception as error:  # too late for another status; who reads sees that bytes are missing
                log.error("an answer breaks off: %s", text_of(error))
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return RacedResponse(answer)


def _head() -> Any:
    return {"type": "http.response.start", "status": 200, "headers": [(b"content-type", NDJSON.encode())]}


async def _respond(response: Response[Any], connection: Connection) -> None:
    await response.to_asgi_response(app=None, request=Request(connection[0]))(*connection)
