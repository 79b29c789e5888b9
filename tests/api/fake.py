"""A service that plays a script instead of running models."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from appliance import core, upkeep
from appliance.errors import InvalidArchive

HANG = "hang"  # in a script: wait until cancelled
BLOB = "sha256:" + "0" * 64

FACTS = core.ModelFacts(
    format="gguf",
    family="llama",
    families=("llama",),
    parameter_size="134.52M",
    quantization_level="Q4_1",
    context_length=2048,
    embedding_length=576,
)
METRICS = core.Metrics(
    total_ns=312000000,
    load_ns=15000000,
    prompt_tokens=26,
    prompt_ns=120000000,
    generated_tokens=3,
    generate_ns=150000000,
)
DETAILS = core.ModelDetails(
    facts=FACTS,
    capabilities=("completion",),
    modified_at=datetime(2026, 8, 21, 9, 30, tzinfo=UTC),
    modelfile="# Modelfile\nFROM x",
    template="{{ .Prompt }}",
    system="",
    parameters='stop                           "<|im_end|>"',
    license="",
    messages=(),
    model_info={"general.architecture": "llama", "general.parameter_count": 134515008},
    tensors=({"name": "token_embd.weight", "type": "Q8_0", "shape": (576, 49152)},),
)
EMBEDDINGS = core.Embeddings(
    np.array([[0.6, 0.8], [1, 0]], np.float32), prompt_tokens=7, total_ns=312000000, load_ns=15000000
)
RANKING = core.Ranking((core.Ranked(1, 0.75), core.Ranked(0, 0.25)), prompt_tokens=21)
USAGE = upkeep.DiskUsage((), 0, 0, 0, 0, 0, disk=100, free=50, floor=10)
NOTHING_PRUNED = upkeep.Pruned(())
NOTHING_WRONG = upkeep.Verified(0, 0, 0, ())
FINISHED = core.Reply(done=True, done_reason=core.DoneReason.STOP, metrics=METRICS)


@dataclass
class FakeCaretaker:
    """Answers what it is given; remembers whether it was asked to change something."""

    usage: upkeep.DiskUsage = USAGE
    pruned: upkeep.Pruned = NOTHING_PRUNED
    verified: upkeep.Verified = NOTHING_WRONG
    archive: Sequence[bytes | Exception] = (b"first", b"second")
    calls: list[Any] = field(default_factory=list)

    def disk_usage(self) -> upkeep.DiskUsage:
        return self.usage

    def prune(self, dry_run: bool) -> upkeep.Pruned:
        self.calls.append(("prune", dry_run))
        return self.pruned

    def verify(self, *, remove: bool, dry_run: bool) -> Generator[core.Progress, None, upkeep.Verified]:
        self.calls.append(("verify", remove, dry_run))
        yield core.Progress("verifying", "sha256:x", 10, 5)
        return self.verified

    def pack(self, models: Sequence[str]) -> FakePacking:
        self.calls.append(("pack", tuple(models)))
        return FakePacking(self.archive)

    def unpack(self, dry_run: bool) -> FakeUnpacking:
        self.calls.append(("unpack", dry_run))
        return FakeUnpacking(self)


@dataclass
class FakePacking:
    """An archive on its way out, in two pieces, with what is raised between them."""

    archive: Sequence[bytes | Exception]

    @property
    def size(self) -> int:
        return sum(len(piece) for piece in self.archive if isinstance(piece, bytes))

    def chunks(self) -> Generator[bytes, None, None]:
        for piece in self.archive:
            if isinstance(piece, Exception):
                raise piece
            yield piece


@dataclass
class FakeUnpacking:
    """Takes anything that is not `bad` as an archive."""

    caretaker: FakeCaretaker
    taken: bytes = b""

    def write(self, data: bytes) -> None:
        self.taken += data
        if self.taken.startswith(b"bad"):
            raise InvalidArchive("it is bad")

    def commit(self) -> list[str]:
        self.caretaker.calls.append(("commit", self.taken))
        return ["m:latest"]

    def abort(self) -> None:
        self.caretaker.calls.append("abort")


@dataclass
class FakeService:
    """`script` is what chat, generate and create yield; exceptions in it are raised. Calls are recorded."""

    script: list[Any] = field(default_factory=lambda: [core.Reply(text="Hi"), FINISHED])
    installed: list[core.ModelSummary] = field(default_factory=list)
    running: list[core.LoadedModel] = field(default_factory=list)
    engines: dict[str, core.EngineStats] = field(default_factory=dict)
    details: core.ModelDetails = DETAILS
    embeddings: core.Embeddings = EMBEDDINGS
    ranking: core.Ranking = RANKING
    error: Exception | None = None
    version: str = "0.33.0"
    cloud_switch: str = "none"
    calls: list[Any] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    cancelled: bool = False
    uploaded: bytes = b""
    caretaker: FakeCaretaker = field(default_factory=FakeCaretaker)

    async def _play(self, request: Any) -> AsyncGenerator[Any, None]:
        self.calls.append(request)
        self.begun.set()
        try:
            for step in self.script:
                if step is HANG:
                    await asyncio.sleep(60)
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield step
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled = True
            raise
        finally:
            self.ended.set()

    def chat(self, request: core.ChatRequest) -> AsyncGenerator[core.Reply, None]:
        return self._play(request)

    def generate(self, request: core.GenerateRequest) -> AsyncGenerator[core.Reply, None]:
        return self._play(request)

    def create(self, request: core.CreateRequest) -> AsyncGenerator[core.Progress, None]:
        return self._play(request)

    def pull(self, request: core.TransferRequest) -> AsyncGenerator[core.Progress, None]:
        return self._play(request)

    def push(self, request: core.TransferRequest) -> AsyncGenerator[core.Progress, None]:
        return self._play(request)

    async def embed(self, request: core.EmbedRequest) -> core.Embeddings:
        async for _ in self._play(request):
            pass
        return self.embeddings

    async def rerank(self, request: core.RerankRequest) -> core.Ranking:
        async for _ in self._play(request):
            pass
        return self.ranking

    def _record(self, *call: Any) -> None:
        self.calls.append(call)
        if self.error:
            raise self.error

    async def models(self) -> list[core.ModelSummary]:
        self._record("models")
        return self.installed

    async def show(
        self, model: str, *, system: str = "", options: Mapping[str, Any] | None = None, verbose: bool = False
    ) -> core.ModelDetails:
        self._record("show", model, system, options, verbose)
        return self.details

    async def loaded(self) -> list[core.LoadedModel]:
        self._record("loaded")
        return self.running

    async def stats(self) -> dict[str, core.EngineStats]:
        self._record("stats")
        return self.engines

    async def copy(self, source: str, destination: str) -> None:
        self._record("copy", source, destination)

    async def delete(self, model: str) -> None:
        self._record("delete", model)

    async def has_blob(self, digest: str) -> bool:
        self._record("has_blob", digest)
        return digest == BLOB

    async def put_blob(self, digest: str, chunks: AsyncIterable[bytes], length: int | None = None) -> bool:
        self._record("put_blob", digest)
        self.begun.set()
        try:
            if digest == BLOB:
                return False
            async for chunk in chunks:
                self.uploaded += chunk
            return True
        except Exception:
            self.cancelled = True
            raise
        finally:
            self.ended.set()


@dataclass(frozen=True)
class FakeSettings:
    host: str = "127.0.0.1"
    origins: tuple[str, ...] = ()
    share: bool = False
