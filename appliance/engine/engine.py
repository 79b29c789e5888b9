"""The loop: one thread owns a loaded model, its KV cache and all requests on it.

Everything crosses the thread's edge as a message: a request comes in by `submit`, a withdrawal by
`Ticket.cancel`, chunks go out through the request's `emit`.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from appliance.config import AUTO, DEFAULT_PREFIX_CACHE_BYTES, DEFAULT_STEP_MS
from appliance.core import DoneReason, EngineStats, Request, SamplingParams
from appliance.engine.backend import Backend, Row
from appliance.engine.prefix import PrefixCache
from appliance.engine.prefix_store import Eviction
from appliance.engine.scheduler import Scheduler
from appliance.engine.sequence import Emit, Sequence, Totals, Vocabulary
from appliance.engine.slots import SlotPool
from appliance.engine.snapshot import SnapshotFolder
from appliance.errors import ApplianceError, EngineStopped, InvalidRequest, PromptTooLong, RequestCancelled, ServerBusy

log = logging.getLogger(__name__)

DEFAULT_STEP_S = DEFAULT_STEP_MS / 1000
MOST_RETRY_AFTER_S = 600


@dataclass(frozen=True, slots=True)
class Ticket:
    """A submitted request."""

    sequence: Sequence
    _inbox: SimpleQueue[_Message]

    def cancel(self) -> None:
        """Withdraw the request, wherever it is: its slot is free after the step in progress. Idempotent."""
        self._inbox.put(_Cancel(self.sequence))


@dataclass(frozen=True, slots=True)
class _Submit:
    sequence: Sequence


@dataclass(frozen=True, slots=True)
class _Cancel:
    sequence: Sequence


class _Close:
    pass


_Message = _Submit | _Cancel | _Close


class Engine:
    """Runs requests on one backend. `submit`, `close` and the properties may be used from any thread."""

    def __init__(
        self,
        backend: Backend,
        vocabulary: Vocabulary,
        *,
        eos: Iterable[int],
        chunk_tokens: int,
        step_s: float = DEFAULT_STEP_S,
        max_waiting: int,
        prefix_cache_bytes: int = DEFAULT_PREFIX_CACHE_BYTES,
        snapshots: SnapshotFolder | None = None,
        speculate: str = AUTO,
        name: str = "engine",
    ) -> None:
        self.backend = backend
        self._vocabulary = vocabulary
        self._eos = frozenset(eos)
        self._max_waiting = max_waiting
        self._speculate = speculate
        self._slots = SlotPool(backend.slots)
        self._prefixes = PrefixCache(backend, self._slots, prefix_cache_bytes, snapshots)
        self._scheduler = Scheduler(chunk_tokens, step_s)
        self._totals = Totals()
        self._masks = ThreadPoolExecutor(1, thread_name_prefix=f"{name} masks")  # starts a thread at first use
        self._inbox: SimpleQueue[_Message] = SimpleQueue()
        self._stopped: EngineStopped | None = None
        self._lock = threading.Lock()  # orders submissions against the end of the thread
        self._request_s: float | None = None  # how long a request held its slot of late
        self._waiting = 0  # submitted and without a slot; guarded by the lock
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether requests are still taken."""
        return self._stopped is None

    @property
    def free_slots(self) -> int:
        """Slots not held by a request."""
        return self._slots.free

    def stats(self) -> EngineStats:
        """What happens at the moment, and the totals so far."""
        totals, store = self._totals, self._prefixes.store
        return EngineStats(
            slots=len(self._slots.slots),
            busy_slots=len(self._slots.slots) - self._slots.free,
            waiting=self._waiting,
            queue=tuple(len(sequence.request.tokens) for sequence in tuple(self._scheduler.waiting)),
            prompt_tokens=totals.prompt,
            cached_tokens=totals.cached,
            evaluated_tokens=totals.evaluated,
            generated_tokens=totals.generated,
            drafted_tokens=totals.drafted,
            accepted_tokens=totals.accepted,
            prefix_cache_bytes=store.used_bytes,
            prefix_evictions={reason.name.lower(): store.evictions[reason] for reason in Eviction},
        )

    def submit(self, request: Request, emit: Emit) -> Ticket:
        """Queue a request; `emit` hears of it from the engine's thread.

        Raises PromptTooLong, InvalidRequest for a prompt without tokens, ServerBusy when the queue is full,
        EngineStopped.
        """
        limit = min(request.num_ctx, self.backend.capacity)
        if not request.tokens:
            raise InvalidRequest("the prompt has no tokens: the model's template makes nothing of what was sent")
        if len(request.tokens) > limit:
            raise PromptTooLong(len(request.tokens), limit)
        speculate = self._may_speculate(request.sampling)
        sequence = Sequence(request, emit, self._vocabulary, self._eos, self._totals, speculate=speculate)
        with self._lock:
            if self._stopped:
                raise self._stopped
            if self._waiting >= self._max_waiting:
                raise self._busy()
            self._waiting += 1
            position = self._waiting - self._slots.free
            self._inbox.put(_Submit(sequence))
        if position > 0:
            log.info("queued at position %d: all %d slots are busy", position, self.backend.slots)
        return Ticket(sequence, self._inbox)

    def _busy(self) -> ServerBusy:
        """The refusal, asking to come back when the queue of now has had its turn, within ten minutes."""
        if self._request_s is None:
            return ServerBusy(self._max_waiting)
        turns_s = self._request_s * self._waiting / self.backend.slots
        return ServerBusy(self._max_waiting, min(max(math.ceil(turns_s), 1), MOST_RETRY_AFTER_S))

    def _may_speculate(self, sampling: SamplingParams) -> bool:
        """Whether drafts may be run: not if that could change a text that is the same every time without them.

        Quantised kernels round several tokens in a row otherwise than one at a time, and what is drafted depends on
        how fast runs were.
        """
        if self._speculate == AUTO and not self.backend.same_in_any_width:
            return sampling.seed < 0 and sampling.temperature > 0
        return self._speculate != "off" and (sampling.seed < 0 or self.backend.same_in_any_width)

    def close(self) -> None:
        """End all requests, release the backend, and wait for the thread."""
        self._inbox.put(_Close())
        self._thread.join()

    def step(self) -> None:
        """One turn: admit, share, then schedule, run, sample and emit a prompt chunk, then the decoding rows."""
        self._admit()
        self._catch_up()
        for schedule in (self._scheduler.prefill, self._scheduler.decode):
            if pairs := schedule():
                self._run_rows(pairs)

    def _run_rows(self, pairs: list[tuple[Sequence, Row]]) -> None:
        for sequence, row in pairs:
            if row.logits:
                sequence.prepare(self._masks)
        started = time.monotonic()
        logits = self.backend.run([row for _, row in pairs])
        self._totals.evaluated += sum(len(row.tokens) for _, row in pairs)
        self._scheduler.observe([row for _, row in pairs], time.monotonic() - started)
        for at, (sequence, row) in enumerate(pairs):
            try:
                done = sequence.accept(row, logits[at])
            except ApplianceError as error:  # this request's own trouble; the others go on
                sequence.emit(error)
                done = True
            if done:
                self._release(sequence)

    def _admit(self) -> None:
        while self._scheduler.waiting and (slot := self._prefixes.take(self._scheduler.waiting[0].tokens)):
            sequence = self._scheduler.waiting.popleft()
            self._stop_waiting()
            sequence.start(slot)
            self._scheduler.running.append(sequence)
            if sequence.finished_before_start:
                sequence.finish(DoneReason.LENGTH)
                self._release(sequence)

    def _catch_up(self) -> None:
        for sequence in self._scheduler.running:
            if sequence.slot and sequence.reading:
                sequence.reuse(self._prefixes.catch_up(sequence.slot, sequence.tokens))

    def _stop_waiting(self) -> None:
        with self._lock:
            self._waiting -= 1

    def _release(self, sequence: Sequence) -> None:
        self._scheduler.running.remove(sequence)
        if sequence.slot:
            self._slots.release(sequence.slot)
            past = self._request_s
            self._request_s = sequence.held_s if past is None else 0.7 * past + 0.3 * sequence.held_s

    def _run(self) -> None:
        error = EngineStopped("the model was unloaded")
        try:
            while self._receive():
                self.step()
        except Exception as failure:
            log.exception("the engine failed")
            error = EngineStopped(type(failure).__name__)
        with self._lock:
            self._stopped = error
        self._end(error)

    def _end(self, error: EngineStopped) -> None:
        while True:
            try:
                message = self._inbox.get_nowait()
            except Empty:
                break
            if isinstance(message, _Submit):
                message.sequence.emit(error)
        for sequence in (*self._scheduler.running, *self._scheduler.waiting):
            sequence.emit(error)
        self._scheduler.running.clear()
        self._scheduler.waiting.clear()
        self._prefixes.close()
        self._masks.shutdown()
        self.backend.close()

    def _receive(self) -> bool:
        """Take in all messages, waiting for one when there is nothing to run. False: close."""
        idle = not (self._scheduler.running or self._scheduler.waiting)
        while True:
            try:
                message = self._inbox.get(block=idle)
            except Empty:
                return True
            if isinstance(message, _Close):
                return False
            if isinstance(message, _Submit):
                self._scheduler.waiting.append(message.sequence)
            else:
                self._cancel(message.sequence)
            idle = idle and not self._scheduler.waiting

    def _cancel(self, sequence: Sequence) -> None:
        if sequence in self._scheduler.waiting:
            self._scheduler.waiting.remove(sequence)
            self._stop_waiting()
        elif sequence in self._scheduler.running:
            self._release(sequence)
        else:
            return
        sequence.emit(RequestCancelled())
