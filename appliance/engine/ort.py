"""ONNX Runtime behind the Backend protocol: a decoder bundle's graph over an arena."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from appliance import bundle as files
from appliance.bundle import Bundle
from appliance.engine.arena import Arena
from appliance.engine.backend import Logits, Row, SavedPrefix
from appliance.engine.providers import Provider, candidates, session_options
from appliance.errors import ModelFileError

log = logging.getLogger(__name__)


def open_backend(folder: Path, bundle: Bundle, *, slots: int, setting: str, threads: int) -> OrtBackend:
    """The backend on the first execution provider for `setting` that can run the graph.

    Raises ModelFileError when none can; says in the log why a better one is passed over.
    """
    *better, last = candidates(setting)
    for provider in better:
        try:
            return OrtBackend(folder, bundle, slots=slots, provider=provider, threads=threads)
        except ModelFileError as error:
            log.warning("%s cannot run this model, trying the next provider: %s", provider.label, error)
    return OrtBackend(folder, bundle, slots=slots, provider=last, threads=threads)


class OrtBackend:
    """Runs `folder`'s graph with ONNX Runtime. See Backend."""

    def __init__(self, folder: Path, bundle: Bundle, *, slots: int, provider: Provider, threads: int) -> None:
        self.slots = slots
        self.capacity = bundle.context_length
        self.vocab_size = bundle.vocab_size
        self.provider = provider.label
        try:
            self.memory_bytes = (folder / files.WEIGHTS).stat().st_size
        except OSError as error:
            raise ModelFileError(f"the bundle's weights are missing: {error.strerror}") from error
        self.vram_bytes = self.memory_bytes if provider.device == "cuda" else 0
        try:
            self._session = ort.InferenceSession(
                str(folder / files.MODEL), session_options(provider, threads), providers=[provider.name]
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base below Exception
            raise ModelFileError(f"ONNX Runtime cannot load the graph: {_first_line(error, folder)}") from error
        self._arena = Arena(bundle, slots, self.capacity, provider.device)
        self.kv_bytes_per_token = bundle.kv_bytes_per_token
        self.can_copy = self._arena.in_host_memory
        self._ranges: dict[tuple[int, int], _Range] = {}

    def run(self, rows: list[Row]) -> Logits:
        """See Backend.run. Binds the smallest contiguous range of slots that covers the rows."""
        first, last = rows[0].slot, rows[-1].slot
        count = last - first + 1
        binding = self._ranges.get((first, count))
        if binding is None:
            binding = self._ranges[first, count] = _Range(self._session, self._arena, first, count, self.vocab_size)
        logits = binding.run(rows)
        return logits if count == len(rows) else logits[[row.slot - first for row in rows]]

    def copy(self, source: int, target: int, tokens: int) -> None:
        """See Backend.copy."""
        self._arena.copy(source, target, tokens)

    def save(self, slot: int, tokens: int) -> SavedPrefix:
        """See Backend.save."""
        return self._arena.save(slot, tokens)

    def restore(self, slot: int, saved: SavedPrefix, tokens: int) -> None:
        """See Backend.restore."""
        assert isinstance(saved, np.ndarray)
        self._arena.restore(slot, saved, tokens)

    def close(self) -> None:
        """See Backend.close."""
        self._ranges.clear()
        del self._session
        self._arena.close()


class _Range:
    """A range of slots bound to the session. Inputs are rebound only when the step's width changes."""

    def __init__(self, session: Any, arena: Arena, first: int, count: int, vocab_size: int) -> None:
        self._session = session
        self._first = first
        self._binding = session.io_binding()
        arena.bind(self._binding, first, count)
        self._lengths = np.zeros(count, np.int32)
        self._seqlens = np.zeros(count, np.int32)
        self._total = np.zeros((), np.int32)
        self._logit_rows = np.zeros((count, 1), np.int64)
        self._ids = np.zeros((count, 0), np.int64)
        self._logits = np.empty((count, 1, vocab_size), np.float32)
        for name, array in (
            ("query_seqlens", self._lengths),
            ("seqlens_k", self._seqlens),
            ("total_sequence_length", self._total),
            ("logit_rows", self._logit_rows),
        ):
            self._bind_input(name, array)
        out = self._logits
        self._binding.bind_output("logits", "cpu", 0, out.dtype, out.shape, out.ctypes.data)

    def run(self, rows: list[Row]) -> Logits:
        width = max(len(row.tokens) for row in rows)
        if self._ids.shape[1] != width:
            self._ids = np.zeros((len(self._lengths), width), np.int64)
            self._bind_input("input_ids", self._ids)
        self._lengths[:] = 0
        self._seqlens[:] = 0  # an idle row appends nothing, whatever its cache holds
        for row in rows:
            at, length = row.slot - self._first, len(row.tokens)
            self._ids[at, :length] = row.tokens
            self._lengths[at] = length
            self._seqlens[at] = row.past + length - 1
            self._logit_rows[at, 0] = length - 1
        self._total[...] = int(self._seqlens.max()) + 1
        self._session.run_with_iobinding(self._binding)
        return self._logits[:, 0]

    def _bind_input(self, name: str, array: Any) -> None:
        self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def _first_line(error: Exception, folder: Path) -> str:
    return str(error).replace(str(folder), "").strip().splitlines()[0]
