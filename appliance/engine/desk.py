"""Requests on one encoder: a few at a time take turns by the batch, the others wait, and of those only so many may.

An encoder keeps nothing between runs, so a request's slot is no more than a thread that hands its batches in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from appliance.core import EngineStats
from appliance.engine.encoder import Encoder, Vectors
from appliance.errors import EngineStopped, ServerBusy

Work = Callable[[Callable[[], bool]], Vectors]
"""Calls the encoder, passing on the function that tells whether the request has been withdrawn."""


class Job:
    """A submitted request of `tokens` tokens; `future` has what it asked for, or the error."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.future: Future[Vectors]
        self.running = False
        self._withdrawn = threading.Event()

    def cancel(self) -> None:
        """Withdraw the request: it ends with the batch in progress. Idempotent."""
        self._withdrawn.set()
        self.future.cancel()

    def withdrawn(self) -> bool:
        """Whether the request has been withdrawn."""
        return self._withdrawn.is_set()


class Desk:
    """Runs requests on `encoder`, `slots` of them at a time. May be used from any thread."""

    def __init__(self, encoder: Encoder, *, slots: int, max_waiting: int, name: str = "encoder") -> None:
        self.encoder = encoder
        self._slots = slots
        self._max_waiting = max_waiting
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix=f"{name} desk")
        self._stopped: EngineStopped | None = None
        self._jobs: list[Job] = []
        self._prompt_tokens = 0
        self._evaluated_tokens = 0
        self._lock = threading.Lock()  # guards all of the above

    @property
    def alive(self) -> bool:
        """Whether requests are still taken."""
        return self._stopped is None

    def submit(self, tokens: int, work: Work) -> Job:
        """Queue a request. Raises ServerBusy when the queue is full, EngineStopped."""
        job = Job(tokens)
        with self._lock:
            if self._stopped:
                raise self._stopped
            if len(self._jobs) >= self._slots + self._max_waiting:
                raise ServerBusy(self._max_waiting)
            self._jobs.append(job)
            job.future = self._threads.submit(self._run, job, work)
        job.future.add_done_callback(lambda _: self._leave(job))
        return job

    def stats(self) -> EngineStats:
        """What happens at the moment, and the totals so far."""
        with self._lock:
            queue = tuple(job.tokens for job in self._jobs if not job.running)
            return EngineStats(
                slots=self._slots,
                busy_slots=len(self._jobs) - len(queue),
                waiting=len(queue),
                queue=queue,
                prompt_tokens=self._prompt_tokens,
                cached_tokens=0,
                evaluated_tokens=self._evaluated_tokens,
                generated_tokens=0,
                drafted_tokens=0,
                accepted_tokens=0,
                prefix_cache_bytes=0,
                prefix_evictions={},
            )

    def close(self) -> None:
        """End all requests after the batch in progress, and release the encoder. Idempotent."""
        with self._lock:
            self._stopped = self._stopped or EngineStopped("the model was unloaded")
        self.encoder.close()
        self._threads.shutdown()  # those that wait find that it has stopped

    def _run(self, job: Job, work: Work) -> Vectors:
        with self._lock:
            if self._stopped:
                raise self._stopped
            job.running = True
            self._prompt_tokens += job.tokens
        try:
            vectors = work(job.withdrawn)
        except EngineStopped as error:  # the graph failed: the next request finds a model that is loaded anew
            with self._lock:
                self._stopped = self._stopped or error
            raise
        with self._lock:
            self._evaluated_tokens += job.tokens
        return vectors

    def _leave(self, job: Job) -> None:
        with self._lock:
            self._jobs.remove(job)
