"""Host memory's part of the prefix cache: what rows held before they were overwritten, and what of it stays."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum

from appliance.engine.backend import SavedPrefix

log = logging.getLogger(__name__)

MAX_ENTRIES = 64
"""Bounds the scan: 64 prefixes of 8,000 tokens that all begin alike take 10 ms to compare, others microseconds."""


class Eviction(StrEnum):
    """Why a prefix left host memory."""

    CONTAINED = "a longer prefix contains it"
    LIVE = "a slot holds it again"
    LEAST_RECENTLY_USED = "least recently used when room was needed"


@dataclass(frozen=True, slots=True, eq=False)
class StoredPrefix:
    """What a row held: the keys and values of `tokens` from the position `start` on.

    Those before are in another row or entry that begins alike, as a branch of a tree has its stem. An entry whose
    stem is gone is of no use, and leaves as the least recently used.
    """

    tokens: tuple[int, ...]
    saved: SavedPrefix
    start: int = 0

    @property
    def size(self) -> int:
        """Tokens of which it holds keys and values."""
        return len(self.tokens) - self.start


class PrefixStore:
    """Prefixes in host memory, never more than `limit_bytes` of them. Touches no row by itself."""

    def __init__(self, limit_bytes: int, bytes_per_token: int) -> None:
        self.evictions: Counter[Eviction] = Counter()
        self._limit_tokens = limit_bytes // bytes_per_token
        self._entries: list[StoredPrefix] = []  # least recently used first

    def __iter__(self) -> Iterator[StoredPrefix]:
        return iter(self._entries)

    @property
    def used_bytes(self) -> int:
        """Bytes of keys and values held."""
        return sum(entry.saved.nbytes for entry in self._entries)

    def room(self, needed: Collection[StoredPrefix]) -> int:
        """How many tokens a new entry may hold if only `needed` stay beside it."""
        return self._limit_tokens - sum(entry.size for entry in needed)

    def make_room(self, tokens: tuple[int, ...], start: int, needed: Collection[StoredPrefix]) -> None:
        """Evict what `tokens` from `start` on contain, then the least recently used until they fit; never `needed`."""
        for entry in [entry for entry in self._entries if entry not in needed]:
            if start <= entry.start and tokens[: len(entry.tokens)] == entry.tokens:
                self.evict(entry, Eviction.CONTAINED)
        while not self._fits(len(tokens) - start):
            oldest = next(entry for entry in self._entries if entry not in needed)
            self.evict(oldest, Eviction.LEAST_RECENTLY_USED)

    def _fits(self, tokens: int) -> bool:
        used = sum(entry.size for entry in self._entries)
        return used + tokens <= self._limit_tokens and len(self._entries) < MAX_ENTRIES

    def add(self, entry: StoredPrefix) -> None:
        """Take in an entry that room was made for."""
        self._entries.append(entry)

    def touch(self, entry: StoredPrefix) -> None:
        """Make the entry the most recently used."""
        self._entries.remove(entry)
        self._entries.append(entry)

    def evict(self, entry: StoredPrefix, reason: Eviction) -> None:
        """Forget the entry."""
        self._entries.remove(entry)
        self.evictions[reason] += 1
        log.debug("forgot a prefix of %d tokens: %s", len(entry.tokens), reason.value)

    def clear(self) -> None:
        """Forget all entries, when the model is unloaded."""
        self._entries.clear()
