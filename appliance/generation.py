"""One request between the event loop and the engine's thread: submit, forward, time, cancel."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

from appliance.core import Chunk, DoneReason, Metrics, Reply, Request, SamplingParams, Usage
from appliance.engine.calls import CallConstraint
from appliance.engine.constrain import Constraint
from appliance.engine.engine import Engine
from appliance.prompt.tokenizer import Tokenizer

log = logging.getLogger(__name__)

REPEATS_LIMIT = 30  # equal chunks in a row before a runaway answer is ended


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt ready to run, with markers for `images` images.

    `guarded`: end a free answer when it repeats itself; `context`: return its tokens.
    """

    text: str
    tokens: tuple[int, ...]
    guarded: bool = False
    context: bool = False
    images: int = 0


class Stopwatch:
    """Monotonic times of one request, in nanoseconds."""

    def __init__(self) -> None:
        self._start = time.monotonic_ns()
        self._loaded = self._start

    def loaded(self) -> None:
        """The model is there."""
        self._loaded = time.monotonic_ns()

    def total_ns(self) -> int:
        """From the beginning until now, at least 1."""
        return max(time.monotonic_ns() - self._start, 1)

    def load_ns(self) -> int:
        """From the beginning until the model was there, at least 1."""
        return max(self._loaded - self._start, 1)

    def metrics(self, usage: Usage) -> Metrics:
        """The figures of a finished request."""
        return Metrics(
            total_ns=self.total_ns(),
            load_ns=self.load_ns(),
            prompt_tokens=usage.prompt_tokens,
            prompt_ns=usage.prompt_ns,
            generated_tokens=usage.generated_tokens,
            generate_ns=usage.generate_ns,
        )


class RepetitionGuard:
    """Notices an answer that has become the same chunk over and over."""

    def __init__(self) -> None:
        self._last = ""
        self._repeats = 0

    def trips(self, text: str) -> bool:
        """Whether `text` is one repeat too many."""
        text = text.strip()
        self._repeats = self._repeats + 1 if text == self._last else 0
        self._last = text
        return self._repeats > REPEATS_LIMIT


async def generate(
    engine: Engine,
    tokenizer: Tokenizer,
    prompt: Prompt,
    sampling: SamplingParams,
    num_ctx: int,
    *,
    shift: bool,
    constraint: Constraint | CallConstraint | None,
    shown: Mapping[int, str],
    stopwatch: Stopwatch,
) -> AsyncGenerator[Reply, None]:
    """Run `prompt` and yield its replies, the last with metrics. Closing the generator cancels the request."""
    request = Request(prompt.tokens, sampling, num_ctx, shift, constraint, shown)
    async with contextlib.aclosing(chunks(engine, request)) as source:
        guard, answer = RepetitionGuard(), ""
        async for chunk in source:
            answer += chunk.text
            if chunk.usage:
                context = (*prompt.tokens, *tokenizer.encode(answer, add_bos=False)) if prompt.context else ()
                metrics = stopwatch.metrics(chunk.usage)
                yield Reply(done=True, done_reason=chunk.done_reason, metrics=metrics, context=context)
                return
            yield Reply(text=chunk.text, logprobs=chunk.logprobs)
            if prompt.guarded and not isinstance(constraint, Constraint) and guard.trips(chunk.text):
                log.warning("ended an answer that repeated %r over and over", chunk.text.strip())
                yield Reply(done=True, done_reason=DoneReason.STOP)
                return


async def chunks(engine: Engine, request: Request) -> AsyncGenerator[Chunk, None]:
    """The engine's chunks on the event loop, to the closing one; raises what the engine sends instead."""
    loop = asyncio.get_running_loop()
    inbox: asyncio.Queue[Chunk | Exception] = asyncio.Queue()

    def emit(event: Chunk | Exception) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(inbox.put_nowait, event)

    ticket = engine.submit(request, emit)
    try:
        while True:
            event = await inbox.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if event.done_reason:
                return
    finally:
        ticket.cancel()
