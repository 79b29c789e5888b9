"""Graphs that others made, behind the Backend protocol: exports of optimum, folders built for onnxruntime-genai.

They read input_ids, attention_mask, perhaps position_ids, and past_key_values.N.key/value [1,heads,P,size], and write
logits and present.N.key/value. Rows of a run take turns. What their cache is, the bundle says:

    past    present is a new tensor, the past with the new tokens behind it
    shared  present is the past's own memory, as long as the context: GroupQueryAttention alone reads and writes it
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from appliance import bundle as files
from appliance.bundle import Bundle
from appliance.engine.arena import DTYPES, Arena, slot_tokens
from appliance.engine.backend import Logits, Row, SavedPrefix
from appliance.engine.providers import CPU, Provider, run_options
from appliance.engine.session import open_mixed_session
from appliance.errors import ModelFileError

LONG_TOKENS = 32  # from here on a run gives back the memory of its activations
PAST = re.compile(r"past_key_values\.(\d+)\.(key|value)")
INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}

Feeds = dict[str, npt.NDArray[Any]]
Pairs = Sequence[tuple[str, str]]  # names of past and present


class Cache(Protocol):
    """The keys and values of every slot."""

    in_host_memory: bool

    def run(self, slot: int, past: int, feeds: Feeds) -> Logits:
        """Run the graph after the slot's first `past` tokens; logits [1,S,V], a copy."""

    def copy(self, source: int, target: int, tokens: int, start: int = 0) -> None:
        """See Backend."""

    def save(self, slot: int, tokens: int, start: int = 0) -> SavedPrefix:
        """See Backend."""

    def restore(self, slot: int, saved: SavedPrefix, tokens: int, start: int = 0) -> None:
        """See Backend."""

    def close(self) -> None:
        """Let go of all memory."""


class ForeignBackend:
    """Runs `folder`'s graph with ONNX Runtime, one row after the other. See Backend."""

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
        """`context`: see OrtBackend; a cache of new tensors grows by itself."""
        self.slots = slots
        self.capacity = slot_tokens(bundle, provider, context if bundle.graph == "shared" else None)
        self.vocab_size = bundle.vocab_size
        self.provider = provider.label
        self.same_in_any_width = bundle.recipe == "fp32"
        self.kv_bytes_per_token = bundle.kv_bytes_per_token
        session = open_mixed_session(folder / files.MODEL, provider, threads, spin)
        self.memory_bytes = sum(path.stat().st_size for path in folder.iterdir() if ".onnx" in path.name)
        self.accelerated = provider is not CPU
        self._inputs, pairs = read_signature(session)
        device = provider.device if bundle.graph == "shared" else "cpu"
        self._cache: Cache = (
            SharedCache(session, Arena(bundle, slots, self.capacity, device, pairs))
            if bundle.graph == "shared"
            else GrowingCache(session, bundle, slots, pairs)
        )
        self.can_copy = self._cache.in_host_memory

    def run(self, rows: list[Row]) -> list[Logits]:
        """See Backend.run."""
        return [self._run_row(row) for row in rows]

    def _run_row(self, row: Row) -> Logits:
        tokens = np.array([row.tokens], np.int64)
        total = row.past + len(row.tokens)
        values = {
            "input_ids": tokens,
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(row.past, total)[None],
        }
        feeds = {name: values[name].astype(dtype) for name, dtype in self._inputs.items()}
        logits = self._cache.run(row.slot, row.past, feeds)[0]
        if logits.shape != (len(row.tokens), self.vocab_size):
            raise ModelFileError(f"the graph's logits have shape {logits.shape} for {len(row.tokens)} tokens")
        wanted: Logits = logits[len(row.tokens) - row.logits :]
        return wanted

    def copy(self, source: int, target: int, tokens: int, start: int = 0) -> None:
        """See Backend.copy."""
        self._cache.copy(source, target, tokens, start)

    def save(self, slot: int, tokens: int, start: int = 0) -> SavedPrefix:
        """See Backend.save."""
        return self._cache.save(slot, tokens, start)

    def restore(self, slot: int, saved: SavedPrefix, tokens: int, start: int = 0) -> None:
        """See Backend.restore."""
        self._cache.restore(slot, saved, tokens, start)

    def close(self) -> None:
        """See Backend.close."""
        self._cache.close()


def read_signature(session: Any) -> tuple[dict[str, Any], Pairs]:
    """The dtypes of the integer inputs by name, and the names of the cache's tensors, layer by layer.

    Raises ModelFileError for a graph that wants anything else.
    """
    inputs: dict[str, Any] = {}
    layers: list[tuple[int, str, str]] = []
    for value in session.get_inputs():
        if found := PAST.fullmatch(value.name):
            layers.append((int(found[1]), found[2], value.name))
        elif value.name in ("input_ids", "attention_mask", "position_ids") and value.type in INTEGERS:
            inputs[value.name] = INTEGERS[value.type]
        else:
            raise ModelFileError(f"the graph's input {value.name[:80]} ({value.type}) is not known")
    pairs = [(name, f"present.{layer}.{kind}") for layer, kind, name in sorted(layers)]
    outputs = {value.name for value in session.get_outputs()}
    for name in ("logits", *(present for _, present in pairs)):
        if name not in outputs:
            raise ModelFileError(f"the graph has no output {name}")
    return inputs, pairs


class GrowingCache:
    """A tensor for every layer, kind and slot, as long as the slot's tokens; every run makes new ones."""

    in_host_memory = True

    def __init__(self, session: Any, bundle: Bundle, slots: int, pairs: Pairs) -> None:
        self._session = session
        self._past = [past for past, _ in pairs]
        self._outputs = ["logits", *(present for _, present in pairs)]
        empty = np.zeros((1, bundle.kv_heads, 0, bundle.head_dim), DTYPES[bundle.kv_dtype])
        self._slots = [[ort.OrtValue.ortvalue_from_numpy(empty)] * len(pairs) for _ in range(slots)]

    def run(self, slot: int, past: int, feeds: Feeds) -> Logits:
        """See Cache."""
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        values |= dict(zip(self._past, self._first(slot, past), strict=True))
        options = run_options(shrinks=feeds["input_ids"].size >= LONG_TOKENS)
        logits, *present = self._session.run_with_ort_values(self._outputs, values, options)
        self._slots[slot] = present
        result: Logits = logits.numpy().astype(np.float32)
        return result

    def _first(self, slot: int, tokens: int) -> list[Any]:
        held = self._slots[slot]
        if held and held[0].shape()[2] == tokens:
            return held
        return [_value(value.numpy()[:, :, :tokens]) for value in held]

    def copy(self, source: int, target: int, tokens: int, start: int = 0) -> None:
        """See Cache. Tensors are never written again, so equally long rows may share them."""
        if start == 0:
            self._slots[target] = self._first(source, tokens)
        else:
            self.restore(target, self.save(source, tokens, start), tokens, start)

    def save(self, slot: int, tokens: int, start: int = 0) -> SavedPrefix:
        """[2 * layers, heads, tokens - start, size]"""
        return np.stack([value.numpy()[0, :, start:tokens] for value in self._slots[slot]])

    def restore(self, slot: int, saved: SavedPrefix, tokens: int, start: int = 0) -> None:
        """See Cache."""
        kept = [value.numpy()[:, :, :start] for value in self._slots[slot]]
        added = saved[:, None, :, : tokens - start]
        self._slots[slot] = [_value(np.concatenate(pair, axis=2)) for pair in zip(kept, added, strict=True)]

    def close(self) -> None:
        """See Cache."""
        self._slots.clear()
        self._session = None


def _value(array: npt.NDArray[Any]) -> Any:
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


class SharedCache:
    """An arena, of which a run binds one slot as past and present."""

    def __init__(self, session: Any, arena: Arena) -> None:
        self._session = session
        self._arena = arena
        self.in_host_memory = arena.in_host_memory
        self._bindings: dict[int, Any] = {}

    def run(self, slot: int, past: int, feeds: Feeds) -> Logits:
        """See Cache."""
        binding = self._bindings.get(slot)
        if binding is None:
            binding = self._bindings[slot] = self._session.io_binding()
            self._arena.bind(binding, slot, 1)
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        binding.bind_output("logits", "cpu")  # anew, or the last run's buffer is taken again, whatever its shape
        options = run_options(shrinks=feeds["input_ids"].size >= LONG_TOKENS)
        self._session.run_with_iobinding(binding, options)
        result: Logits = binding.get_outputs()[-1].numpy().astype(np.float32)
        return result

    def copy(self, source: int, target: int, tokens: int, start: int = 0) -> None:
        """See Cache."""
        self._arena.copy(source, target, tokens, start)

    def save(self, slot: int, tokens: int, start: int = 0) -> SavedPrefix:
        """See Cache."""
        return self._arena.save(slot, tokens, start)

    def restore(self, slot: int, saved: SavedPrefix, tokens: int, start: int = 0) -> None:
        """See Cache."""
        self._arena.restore(slot, saved, tokens, start)

    def close(self) -> None:
        """See Cache."""
        self._bindings.clear()
        self._session = None
        self._arena.close()
