"""Slots: rows of the KV cache, and what tokens each of them holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from operator import ne

MIN_PREFILL_TOKENS = 2
"""Quantised kernels give one row bits of its own, and two or more rows all the same bits, however many they are.
So a prompt that never runs a single token gives the same logits in any chunks and after any reuse."""


@dataclass(slots=True, eq=False)
class Slot:
    """One row. `tokens` are those whose keys and values are in the cache, in order."""

    index: int
    tokens: list[int] = field(default_factory=list)
    busy: bool = False
    last_used: int = 0


class SlotPool:
    """Hands out slots, the one that already holds most of the prompt first."""

    def __init__(self, count: int) -> None:
        self.slots = [Slot(index) for index in range(count)]
        self._clock = 0

    @property
    def free(self) -> int:
        """How many slots are free."""
        return sum(not slot.busy for slot in self.slots)

    def take(self, prompt: Sequence[int]) -> Slot | None:
        """A free slot whose tokens are cut to the prefix it shares with `prompt`; None when all are busy."""
        shared = self.shared(prompt)
        if not shared:
            return None
        slot = self.best(shared)
        self.claim(slot, shared[slot])
        return slot

    def shared(self, prompt: Sequence[int]) -> dict[Slot, int]:
        """How many leading tokens each free slot shares with `prompt`, whose last two are never reused."""
        limit = len(prompt) - MIN_PREFILL_TOKENS
        return {slot: common_prefix(slot.tokens, prompt, limit) for slot in self.slots if not slot.busy}

    def best(self, shared: Mapping[Slot, int]) -> Slot:
        """The slot to take of those in `shared`, tokens by slot.

        Most reuse wins; among equals one that loses nothing (empty), then the least recently used, then the
        lowest, so that busy rows stay close together.
        """
        return min(shared, key=lambda slot: (-shared[slot], bool(slot.tokens), slot.last_used, slot.index))

    def claim(self, slot: Slot, tokens: int) -> None:
        """Hold a free slot, cut to its first `tokens`."""
        del slot.tokens[tokens:]
        slot.busy = True

    def release(self, slot: Slot) -> None:
        """Free the slot; its tokens stay for the next prompt that begins alike."""
        self._clock += 1
        slot.last_used = self._clock
        slot.busy = False


def common_prefix(left: Sequence[int], right: Sequence[int], limit: int) -> int:
    """How many leading tokens two sequences share, at most `limit`."""
    length = max(min(len(left), len(right), limit), 0)
    return next(compress(range(length), map(ne, left, right)), length)
