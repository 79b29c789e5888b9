"""Blocking generators on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Any


async def stepped(generator: Generator[Any, None, Any]) -> AsyncGenerator[Any, None]:
    """Run a blocking generator in threads, step by step; what it returns comes last, unless None.

    Closing this one closes `generator`, after the step that runs.
    """

    def advance() -> tuple[bool, Any]:
        try:
            return False, next(generator)
        except StopIteration as end:
            return True, end.value

    ended = False
    try:
        while not ended:
            running = asyncio.ensure_future(asyncio.to_thread(advance))
            try:
                ended, step = await asyncio.shield(running)
            except asyncio.CancelledError:
                await asyncio.wait([running])
                raise
            if step is not None:
                yield step
    finally:
        generator.close()
