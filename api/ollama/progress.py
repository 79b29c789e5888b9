"""Streams of progress: what create, pull and push answer with."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from litestar import Response

from api import streaming
from api.encode import JSON_PLAIN, JSONResponse
from api.ollama import wire
from appliance import core


def answer(
    progress: AsyncGenerator[core.Progress, None], stream: bool | None
) -> streaming.RacedResponse[wire.ProgressResponse]:
    """Every event as a line, or the last one alone where no stream is wanted."""
    if stream is not False:
        return streaming.lines(progress, event)

    async def last() -> Response[wire.ProgressResponse]:
        latest = core.Progress("")
        async with aclosing(progress):
            async for each in progress:
                latest = each
        return JSONResponse(event(latest), status_code=200, media_type=JSON_PLAIN)

    return streaming.whole(last)


def event(progress: core.Progress) -> wire.ProgressResponse:
    """A line of the stream."""
    return wire.ProgressResponse(
        status=progress.status, digest=progress.digest, total=progress.total, completed=progress.completed
    )
