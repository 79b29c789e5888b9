"""Streams of progress: what create, pull and push answer with."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from api import streaming
from api.ollama import wire
from appliance import core


def answer(
    progress: AsyncGenerator[core.Progress, None], stream: bool | None
) -> streaming.RacedResponse[wire.ProgressResponse]:
    """Every event as a line, or the last one alone where no stream is wanted."""
    return streaming.progress(progress, event, stream=stream is not False)


def event(progress: core.Progress) -> wire.ProgressResponse:
    """A line of the stream."""
    return wire.ProgressResponse(
        status=progress.status, digest=progress.digest, total=progress.total, completed=progress.completed
    )
