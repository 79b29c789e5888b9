"""An engine on the scripted backend, and a client that waits for its chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from appliance.core import Chunk, Request, SamplingParams
from appliance.engine.engine import Engine, Ticket
from tests.engine.fakes import EOS, Letters, ScriptedBackend, letters


class Client:
    """One request's receiving end."""

    def __init__(self, engine: Engine, prompt: str, *, num_ctx: int = 64, shift: bool = True, **sampling: Any) -> None:
        self.inbox: SimpleQueue[Chunk | Exception] = SimpleQueue()
        params = SamplingParams(**{"temperature": 0.0, **sampling})
        request = Request(letters(prompt), params, num_ctx=num_ctx, shift=shift)
        self.ticket: Ticket = engine.submit(request, self.inbox.put)

    def chunks(self) -> list[Chunk]:
        """All chunks up to the closing one; raises what the engine sends instead."""
        received = []
        while True:
            event = self.inbox.get(timeout=30)
            if isinstance(event, Exception):
                raise event
            received.append(event)
            if event.done_reason:
                return received

    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks())


@pytest.fixture
def start() -> Iterator[Callable[..., Engine]]:
    engines = []

    def make(backend: ScriptedBackend, *, chunk_tokens: int = 8, max_waiting: int = 16, **more: Any) -> Engine:
        engine = Engine(backend, Letters(), eos=[EOS], chunk_tokens=chunk_tokens, max_waiting=max_waiting, **more)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()
