"""A scripted backend and a one-letter-per-token vocabulary: the engine without a model."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from appliance.engine.backend import Logits, Row, SavedPrefix

EOS = 0


class ScriptedBackend:
    """Continues tokens by `script`, which sees everything in a slot and names the next token.

    Keeps its own cache and checks that the engine's idea of it is right.
    """

    provider = "CPU"
    memory_bytes = 0
    vram_bytes = 0
    kv_bytes_per_token = 4

    def __init__(
        self,
        script: Callable[[list[int]], int],
        *,
        slots: int = 2,
        capacity: int = 64,
        vocab_size: int = 128,
        gate: threading.Semaphore | None = None,
        can_copy: bool = True,
    ) -> None:
        self.slots = slots
        self.capacity = capacity
        self.vocab_size = vocab_size
        self.can_copy = can_copy
        self.runs: list[list[Row]] = []
        self.copies: list[tuple[int, int, int]] = []
        self.restores: list[tuple[int, int]] = []
        self.closed = False
        self._script = script
        self._cache: list[list[int]] = [[] for _ in range(slots)]
        self._gate = gate

    def run(self, rows: list[Row]) -> list[Logits]:
        if self._gate:
            self._gate.acquire()
        assert [row.slot for row in rows] == sorted({row.slot for row in rows})
        self.runs.append(rows)
        return [self._run_row(row) for row in rows]

    def _run_row(self, row: Row) -> Logits:
        cache = self._cache[row.slot]
        assert row.past <= len(cache), "the engine counts on tokens that were never cached"
        assert 0 <= row.logits <= len(row.tokens)
        cache[row.past :] = row.tokens
        assert len(cache) <= self.capacity
        logits = np.full((row.logits, self.vocab_size), -10.0, np.float32)
        for at in range(row.logits):
            logits[at, self._script(cache[: len(cache) - row.logits + at + 1])] = 10.0
        return logits

    def copy(self, source: int, target: int, tokens: int) -> None:
        assert source != target
        self.copies.append((source, target, tokens))
        self._overwrite(target, self._beginning(self._cache[source], tokens))

    def save(self, slot: int, tokens: int) -> npt.NDArray[np.int32]:
        return np.array(self._beginning(self._cache[slot], tokens), np.int32)

    def restore(self, slot: int, saved: SavedPrefix, tokens: int) -> None:
        assert isinstance(saved, np.ndarray)
        self.restores.append((slot, tokens))
        self._overwrite(slot, self._beginning(saved.tolist(), tokens))

    def close(self) -> None:
        self.closed = True

    def _beginning(self, cache: list[int], tokens: int) -> list[int]:
        assert self.can_copy
        assert 0 < tokens <= len(cache), "the engine counts on tokens that were never cached"
        return cache[:tokens]

    def _overwrite(self, slot: int, tokens: list[int]) -> None:
        self._cache[slot][: len(tokens)] = tokens


class Letters:
    """Token n is chr(n)."""

    def token_text(self, token: int) -> str:
        return chr(token)

    def stream(self, prompt: tuple[int, ...]) -> Letters:
        return self

    def push(self, token: int) -> str:
        return chr(token)

    def flush(self) -> str:
        return ""


def letters(text: str) -> tuple[int, ...]:
    """Tokens of `text`."""
    return tuple(map(ord, text))
