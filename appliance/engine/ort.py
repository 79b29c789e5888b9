"""ONNX Runtime behind the Backend protocol: a decoder bundle's graph over an arena."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from appliance import bundle as files
from appliance.bundle import Bundle
from appliance.engine.arena import Arena, slot_tokens
from appliance.engine.backend import Logits, Row, SavedPrefix
from appliance.engine.binding import Bindings, ragged
from appliance.engine.foreign import ForeignBackend
from appliance.engine.providers import CPU, Provider, candidates, session_options
from appliance.engine.session import open_session, probe_tokens
from appliance.errors import ModelFileError, first_line

log = logging.getLogger(__name__)

BATCH_ROWS = 4  # from so many rows, or so many tokens of one row, the batch graph is faster
BATCH_TOKENS = 32
RECORDING_RUNS = 2  # a decode step is recorded in its second run
ATTENTION_VARIABLE = "ORT_GQA_DISABLE_FLASH_ATTENTION"


def open_backend(
    folder: Path,
    bundle: Bundle,
    *,
    slots: int,
    setting: str,
    threads: int,
    spin: bool = True,
    context: int | None = None,
) -> OrtBackend | ForeignBackend:
    """The backend on the first execution provider for `setting` that can run the graph.

    Raises ModelFileError when none can; says in the log why a better one is passed over.
    """
    kind = OrtBackend if bundle.graph == "ours" else ForeignBackend
    *better, last = candidates(setting)
    for provider in better:
        try:
            return kind(folder, bundle, slots=slots, provider=provider, threads=threads, spin=spin, context=context)
        except ModelFileError as error:
            log.warning("%s cannot run this model, trying the next provider: %s", provider.label, error)
    return kind(folder, bundle, slots=slots, provider=last, threads=threads, spin=spin, context=context)


class OrtBackend:
    """Runs `folder`'s graph with ONNX Runtime. See Backend."""

    def __init__(
        self,
        folder: Path,
        bundle: Bundle,
        *,
        slots: int,
        provider: Provider,
        threads: int,
        spin: bool = True,
        context: int | None = None,
    ) -> None:
        """`context` is how many tokens each slot must hold; None: the model's whole context.

        Raises ModelFileError for what cannot be loaded, and for a graph whose activations outgrow float16.
        """
        self.slots = slots
        self.capacity = slot_tokens(bundle, provider, context)
        self.vocab_size = bundle.vocab_size
        self.provider = provider.label
        self.same_in_any_width = bundle.recipe == "fp32" and bundle.kv_dtype == "float32"
        try:
            self.memory_bytes = (folder / files.WEIGHTS).stat().st_size
        except OSError as error:
            raise ModelFileError(f"the bundle's weights are missing: {error.strerror}") from error
        self.accelerated = provider is not CPU
        self.kv_bytes_per_token = bundle.kv_bytes_per_token

        options = session_options(provider, threads, spin)
        batch = open_session(folder / files.BATCH, provider, options) if (folder / files.BATCH).exists() else None
        with untiled_attention(batch is not None and bundle.kv_dtype == "int8"):
            graph = open_session(folder / files.MODEL, provider, options, provider.on_card)
        self._arena = Arena(bundle, slots, self.capacity, provider.device)
        self.can_copy = self._arena.in_host_memory
        self._ragged = ragged(graph)
        self._graph = Bindings(graph, self._arena, self.vocab_size, provider.on_card)
        self._batch = Bindings(batch, self._arena, self.vocab_size) if batch else None
        if bundle.kv_dtype == "float16":
            self._check_range(bundle)

    def run(self, rows: list[Row]) -> list[Logits]:
        """See Backend.run. Many rows, or many tokens of one, go to the batch graph, if there is one."""
        if not self._ragged:
            return [logits.copy() for turn in turns(rows) for logits in self._graph.run(turn)]
        many = len(rows) >= BATCH_ROWS or len(rows[0].tokens) >= BATCH_TOKENS
        return (self._batch if self._batch and many else self._graph).run(rows)

    def _check_range(self, bundle: Bundle) -> None:
        """Raise ModelFileError for a graph that does not run here, or whose activations outgrow float16."""
        start = () if bundle.bos_token is None else (bundle.bos_token,)
        tokens = (*start, *probe_tokens(self.vocab_size))[: self.capacity]
        try:
            (logits,) = self.run([Row(0, 0, tokens, logits=len(tokens))])
            for _ in range(RECORDING_RUNS):
                self.run([Row(0, 0, tokens[:1])])
        except Exception as error:  # ONNX Runtime's exceptions share no base below Exception
            self.close()
            raise ModelFileError(f"the graph does not run: {first_line(error)}") from error
        if not np.isfinite(logits).all():
            self.close()
            raise ModelFileError("the model's activations are too large for float16")

    def copy(self, source: int, target: int, tokens: int, start: int = 0) -> None:
        """See Backend.copy."""
        self._arena.copy(source, target, tokens, start)

    def save(self, slot: int, tokens: int, start: int = 0) -> SavedPrefix:
        """See Backend.save."""
        return self._arena.save(slot, tokens, start)

    def restore(self, slot: int, saved: SavedPrefix, tokens: int, start: int = 0) -> None:
        """See Backend.restore."""
        assert isinstance(saved, np.ndarray)
        self._arena.restore(slot, saved, tokens, start)

    def close(self) -> None:
        """See Backend.close."""
        del self._graph, self._batch
        self._arena.close()


def turns(rows: list[Row]) -> list[list[Row]]:
    """The runs of a graph that cannot have rows of different length: one token each of adjacent slots, or one row.

    A slot between two others may not idle: there is no run that leaves its cache alone.
    """
    groups: list[list[Row]] = []
    for row in rows:
        last = groups[-1][-1] if groups else None
        if last and len(last.tokens) == len(row.tokens) == 1 and last.slot + 1 == row.slot:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


@contextlib.contextmanager
def untiled_attention(wanted: bool) -> Iterator[None]:
    """Sessions made in here attend without tiles if `wanted`; ONNX Runtime reads the variable as it makes a kernel.

    Over an int8 KV cache that is faster for few tokens (at a depth of 2,000, a third more tokens/s) and slower for
    many, which the batch graph runs. Over float32 it is slower for both. Measured with ONNX Runtime 1.32.
    """
    if not wanted or ATTENTION_VARIABLE in os.environ:
        yield
        return
    os.environ[ATTENTION_VARIABLE] = "1"
    try:
        yield
    finally:
        del os.environ[ATTENTION_VARIABLE]
