"""What a run reads and writes, bound to an ONNX Runtime session: nothing is bound again that stays as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.engine.arena import Arena
from appliance.engine.backend import Logits, Row
from appliance.engine.providers import CPU, NOT_RECORDED, run_options
from appliance.engine.recorded import RecordedStep, can_record

LONG_TOKENS = 32  # from here on a run gives back the memory of its activations


class Bindings:
    """Runs rows on `session`, whose KV cache is `arena`, through one binding for each range of slots.

    The logits of all ranges share one buffer, as large as the largest run needed. Of a session that `records`, each
    range's decode steps have a recording.
    """

    def __init__(self, session: Any, arena: Arena, vocab_size: int, records: bool = False) -> None:
        self._session = session
        self._arena = arena
        self._vocab_size = vocab_size
        self._records = records
        self._recorded: dict[tuple[int, int], RecordedStep] = {}
        self._ranges: dict[tuple[int, int], _Range] = {}
        self._logits = np.empty(0, np.float32)

    def run(self, rows: list[Row]) -> list[Logits]:
        """See Backend.run. Binds the smallest contiguous range of slots that covers the rows."""
        first = rows[0].slot
        count = rows[-1].slot - first + 1
        if self._records and can_record(rows):
            return self._recording(first, count).run(rows)
        wanted = max(1, *(row.logits for row in rows))
        logits = self._buffer(count, wanted)
        span = self._ranges.get((first, count))
        if span is None:
            span = self._ranges[first, count] = _Range(self._session, self._arena, first, count, self._records)
        span.run(rows, logits)
        return [logits[row.slot - first, : row.logits] for row in rows]

    def _recording(self, first: int, count: int) -> RecordedStep:
        step = self._recorded.get((first, count))
        if step is None:
            number = len(self._recorded) + 1
            step = RecordedStep(self._session, self._arena, self._vocab_size, first, count, number)
            self._recorded[first, count] = step
        return step

    def _buffer(self, count: int, wanted: int) -> Logits:
        """A view [count, wanted, V] of the shared buffer."""
        shape = (count, wanted, self._vocab_size)
        size = count * wanted * self._vocab_size
        if size > len(self._logits):
            self._ranges.clear()  # they are bound to the old buffer
            self._logits = np.empty(size, np.float32)
        return self._logits[:size].reshape(shape)


def ragged(session: Any) -> bool:
    """Whether rows of a run may differ in length; a graph without query_seqlens runs one row at a time."""
    return any(value.name == "query_seqlens" for value in session.get_inputs())


class _Range:
    """A range of slots bound to the session. Bound again: what depends on the width, when the width changes.

    An accelerator is given a copy of what lies in host memory as it is bound, so there all of it is bound in every run.
    """

    def __init__(self, session: Any, arena: Arena, first: int, count: int, records: bool) -> None:
        self._session = session
        self._arena = arena
        self._copied = session.get_providers()[0] != CPU.name
        self._first = first
        self._count = count
        self._recording = NOT_RECORDED if records else None
        self._binding = session.io_binding()
        arena.bind(self._binding, first, count)
        self._inputs: dict[str, npt.NDArray[Any]] = {}
        self._lengths = np.zeros(count, np.int32)
        self._seqlens = np.zeros(count, np.int32)
        self._total = np.zeros((), np.int32)
        self._ids = np.zeros((count, 0), np.int64)
        self._logit_rows = np.zeros((count, 0), np.int64)
        for name, array in (
            *((("query_seqlens", self._lengths),) if ragged(session) else ()),
            ("seqlens_k", self._seqlens),
            ("total_sequence_length", self._total),
        ):
            self._bind_input(name, array)

    def run(self, rows: list[Row], logits: Logits) -> None:
        """Run `rows`; each row's logits are the first of its part of `logits` [count, R, V]."""
        self._fit(max(len(row.tokens) for row in rows), logits)
        self._lengths[:] = 0
        self._seqlens[:] = 0  # an idle row appends nothing, whatever its cache holds
        self._logit_rows[:] = 0
        for row in rows:
            at, length = row.slot - self._first, len(row.tokens)
            self._ids[at, :length] = row.tokens
            self._lengths[at] = length
            self._seqlens[at] = row.past + length - 1
            self._logit_rows[at, : row.logits] = range(length - row.logits, length)
        self._total[...] = int(self._seqlens.max()) + 1
        if self._copied:
            self._bind_again()
        options = run_options(shrinks=self._ids.size >= LONG_TOKENS, recording=self._recording)
        self._session.run_with_iobinding(self._binding, options)

    def _fit(self, width: int, logits: Logits) -> None:
        if self._ids.shape[1] != width:
            self._ids = np.zeros((self._count, width), np.int64)
            self._bind_input("input_ids", self._ids)
        if self._logit_rows.shape[1] != logits.shape[1]:
            self._logit_rows = np.zeros(logits.shape[:2], np.int64)
            self._bind_input("logit_rows", self._logit_rows)
            self._binding.bind_output("logits", "cpu", 0, logits.dtype, logits.shape, logits.ctypes.data)

    def _bind_again(self) -> None:
        for name, array in self._inputs.items():
            self._bind_input(name, array)
        if self._arena.in_host_memory:
            self._arena.bind(self._binding, self._first, self._count)

    def _bind_input(self, name: str, array: npt.NDArray[Any]) -> None:
        self._inputs[name] = array
        self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
