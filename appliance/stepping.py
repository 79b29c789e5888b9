"""Blocking work beside an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def finished(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run in a thread. Cancelled, it first waits for the thread: its files must not be closed under it."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments, **named))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


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
            ended, step = await finished(advance)
            if step is not None:
                yield step
    finally:
        generator.close()
