"""What is loaded: a bundle's engine or encoder, how much of the machine it holds, and who holds it."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from appliance.bundle import Bundle
from appliance.core import EngineStats
from appliance.engine.calls import CallGrammars
from appliance.engine.constrain import Grammars
from appliance.engine.desk import Desk
from appliance.engine.engine import Engine
from appliance.memory import attention_bytes
from appliance.prompt.tokenizer import Tokenizer
from appliance.store.store import StoredModel

FOREVER = timedelta(days=292 * 365)


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a loaded session cannot change: asking for something else loads the model again."""

    threads: int
    provider: str


@dataclass(eq=False, kw_only=True)
class Runner(ABC):
    """A loaded model. `active` counts requests that hold it, `context_length` is the last one's.

    `on_card`: what it reserved is a card's memory, not the machine's.
    """

    model: StoredModel
    folder: Path
    bundle: Bundle
    tokenizer: Tokenizer
    load_options: LoadOptions
    reserved_bytes: int
    on_card: bool
    keep_alive_s: float
    context_length: int
    active: int = 0
    draining: bool = False
    last_used: datetime = field(default_factory=lambda: datetime.now(UTC))
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    timer: asyncio.TimerHandle | None = None
    closing: asyncio.Future[None] | None = None

    @property
    def expires_at(self) -> datetime:
        """When the runner unloads by itself if nothing more arrives."""
        start = datetime.now(UTC) if self.active else self.last_used
        return start + (FOREVER if math.isinf(self.keep_alive_s) else timedelta(seconds=self.keep_alive_s))

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether requests are still taken."""

    @property
    @abstractmethod
    def provider(self) -> str:
        """The execution provider, as shown to people."""

    @property
    @abstractmethod
    def accelerated(self) -> bool:
        """Whether an accelerator runs its graph; all of its memory then counts as that one's."""

    @property
    def vram_bytes(self) -> int:
        """The part of its memory that lies in an accelerator."""
        return self.reserved_bytes if self.accelerated else 0

    def holds(self, context: int) -> bool:
        """Whether requests of `context` tokens can be served without loading anew."""
        return True

    @abstractmethod
    def bytes_for(self, context: int) -> int:
        """Memory that a request with this context needs beyond what is reserved."""

    def grow(self, context: int) -> None:
        """Reserve what a request with this context needs; it is the last one's from now on."""
        self.reserved_bytes += self.bytes_for(context)
        self.context_length = context

    @abstractmethod
    def stats(self) -> EngineStats:
        """What happens at the moment, and the totals so far."""

    @abstractmethod
    def close(self) -> None:
        """End what runs and release all memory. Blocks."""


@dataclass(eq=False, kw_only=True)
class DecoderRunner(Runner):
    """A model that writes text. Its KV cache has room for `reserved_tokens` in every slot."""

    engine: Engine
    grammars: Grammars
    reserved_tokens: int
    calls: CallGrammars = field(init=False)

    def __post_init__(self) -> None:
        self.calls = CallGrammars(self.grammars)

    @property
    def alive(self) -> bool:
        """See Runner."""
        return self.engine.alive

    @property
    def provider(self) -> str:
        """See Runner."""
        return self.engine.backend.provider

    @property
    def accelerated(self) -> bool:
        """See Runner."""
        return self.engine.backend.accelerated

    def holds(self, context: int) -> bool:
        """See Runner."""
        return context <= self.engine.backend.capacity

    def bytes_for(self, context: int) -> int:
        """See Runner."""
        more = max(0, context - self.reserved_tokens)
        return more * self.bundle.kv_bytes_per_token * self.engine.backend.slots

    def grow(self, context: int) -> None:
        """See Runner."""
        super().grow(context)
        self.reserved_tokens = max(self.reserved_tokens, context)

    def stats(self) -> EngineStats:
        """See Runner."""
        return self.engine.stats()

    def close(self) -> None:
        """See Runner."""
        self.engine.close()


@dataclass(eq=False, kw_only=True)
class EncoderRunner(Runner):
    """A model that turns texts into vectors or, a reranker, pairs of texts into scores.

    Its memory holds a run of `reserved_tokens` in a row.
    """

    desk: Desk
    reserved_tokens: int

    @property
    def alive(self) -> bool:
        """See Runner."""
        return self.desk.alive

    @property
    def provider(self) -> str:
        """See Runner."""
        return self.desk.encoder.provider

    @property
    def accelerated(self) -> bool:
        """See Runner."""
        return self.desk.encoder.accelerated

    def bytes_for(self, context: int) -> int:
        """See Runner."""
        held = attention_bytes(self.bundle, self.reserved_tokens)
        return max(0, attention_bytes(self.bundle, context) - held)

    def grow(self, context: int) -> None:
        """See Runner."""
        super().grow(context)
        self.reserved_tokens = max(self.reserved_tokens, context)

    def stats(self) -> EngineStats:
        """See Runner."""
        return self.desk.stats()

    def close(self) -> None:
        """See Runner."""
        self.desk.close()
