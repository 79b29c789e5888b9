"""A scripted backend and a one-letter-per-token vocabulary: the engine without a model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.core import Chunk, Request
from appliance.engine.backend import Backend, Logits, Row, SavedPrefix
from appliance.engine.draft import Drafter
from appliance.engine.sequence import Sequence, Totals, Vocabulary
from appliance.engine.slots import Slot
from appliance.engine.timing import DecodeTime

EOS = 0


class ScriptedBackend:
    """Continues tokens by `script`, which sees everything in a slot and names the next token.

    Keeps its own cache and checks that the engine's idea of it is right.
    """

    provider = "CPU"
    memory_bytes = 0
    accelerated = False
    kv_bytes_per_token = 4
    same_in_any_width = True

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
        ends = range(len(cache) - row.logits + 1, len(cache) + 1)
        return np.array([self.logits(cache[:end]) for end in ends], np.float32).reshape(row.logits, self.vocab_size)

    def logits(self, cache: list[int]) -> Logits:
        """What the model makes of the tokens in a slot."""
        logits = np.full(self.vocab_size, -10.0, np.float32)
        logits[self._script(cache)] = 10.0
        return logits

    def copy(self, source: int, target: int, tokens: int, start: int = 0) -> None:
        assert source != target
        self.copies.append((source, target, tokens))
        self._overwrite(target, self._piece(self._cache[source], start, tokens), start)

    def save(self, slot: int, tokens: int, start: int = 0) -> npt.NDArray[np.int32]:
        return np.array(self._piece(self._cache[slot], start, tokens), np.int32)

    def restore(self, slot: int, saved: SavedPrefix, tokens: int, start: int = 0) -> None:
        assert isinstance(saved, np.ndarray)
        self.restores.append((slot, tokens))
        self._overwrite(slot, self._piece(saved.tolist(), 0, tokens - start), start)

    def close(self) -> None:
        self.closed = True

    def _piece(self, cache: list[int], start: int, stop: int) -> list[int]:
        assert self.can_copy
        assert 0 <= start < stop <= len(cache), "the engine counts on tokens that were never cached"
        return cache[start:stop]

    def _overwrite(self, slot: int, tokens: list[int], start: int) -> None:
        assert start <= len(self._cache[slot]), "what comes before was never cached"
        self._cache[slot][start : start + len(tokens)] = tokens


class DreamingBackend(ScriptedBackend):
    """Has something to say for every letter of `alphabet`, by chance but always the same after the same tokens."""

    def __init__(self, alphabet: str, *, memory: int = 3, **more: Any) -> None:
        super().__init__(lambda cache: EOS, **more)
        self._alphabet = np.array(letters(alphabet))
        self._memory = memory

    def logits(self, cache: list[int]) -> Logits:
        logits = np.full(self.vocab_size, -30.0, np.float32)
        dice = np.random.default_rng(cache[-self._memory :])
        logits[self._alphabet] = 2 * dice.standard_normal(len(self._alphabet))
        logits[EOS] = -3.0
        return logits


class Letters:
    """Token n is chr(n)."""

    def token_text(self, token: int) -> str:
        return chr(token)

    def stream(self, prompt: tuple[int, ...], shown: Mapping[int, str]) -> Letters:
        return self

    def push(self, token: int) -> str:
        return chr(token)

    def flush(self) -> str:
        return ""


def letters(text: str) -> tuple[int, ...]:
    """Tokens of `text`."""
    return tuple(map(ord, text))


def run_alone(
    backend: Backend,
    request: Request,
    *,
    times: DecodeTime | None = None,
    vocabulary: Vocabulary | None = None,
    eos: tuple[int, ...] = (EOS,),
    hint: tuple[int, ...] = (),
) -> tuple[list[Chunk], Totals, tuple[int, ...]]:
    """The chunks of one request that has the backend to itself, what it counted, and its tokens with the prompt's.

    `times` decides what is drafted, None is nothing; guesses may also come from the tokens of `hint`.
    """
    chunks: list[Chunk] = []
    totals = Totals()

    def emit(event: Chunk | Exception) -> None:
        assert isinstance(event, Chunk)
        chunks.append(event)

    sequence = Sequence(request, emit, vocabulary or Letters(), frozenset(eos), totals, speculate=times is not None)
    if times and hint:
        sequence._drafter = Drafter((*hint, *sequence.tokens))
    sequence.start(Slot(0))
    done = False
    while not done:
        row = sequence.next_row(64, None if sequence.reading else times)
        done = sequence.accept(row, backend.run([row])[0])
        assert sequence.slot
        assert done or sequence.slot.tokens == sequence.tokens[: len(sequence.slot.tokens)]
    return chunks, totals, tuple(sequence.tokens)


def cheap_drafts() -> DecodeTime:
    """Times by which a long row is as quick as a short one."""
    times = DecodeTime()
    for _ in range(50):
        times.observe(1, 0.01)
        times.observe(9, 0.01)
    return times
