"""The prefix cache: what one request has computed of a prompt is copied for the next, not computed again.

A prompt's keys and values depend on nothing but the tokens before them, so any row that begins alike will do: one
that is free, one whose request still runs (a slot names only tokens that are in its row, so a context that shifted
counts for what it kept), a copy in host memory of a row that was overwritten, or one on disk (`snapshot.py`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from appliance.engine.backend import Backend, SavedPrefix
from appliance.engine.slots import MIN_PREFILL_TOKENS, Slot, SlotPool, common_prefix
from appliance.engine.snapshot import MIN_PINNED_TOKENS, Pins, Snapshot, SnapshotFolder

log = logging.getLogger(__name__)

MIN_GAIN_TOKENS = 16
"""Fewer tokens than this are computed again rather than copied or kept.

SmolLM2-135M, two threads: copying a token costs 2 µs, 15 µs where the row's pages are new, saving it 4 µs, prefilling
it 600 to 800 µs. So copying always wins; but below this a prefill takes 13 ms, not worth an entry or a row.
"""

MAX_ENTRIES = 64
"""Bounds the scan: 64 prefixes of 8,000 tokens that all begin alike take 10 ms to compare, others microseconds."""


class Eviction(StrEnum):
    """Why a prefix left host memory."""

    CONTAINED = "a longer prefix contains it"
    LIVE = "a slot holds it again"
    LEAST_RECENTLY_USED = "least recently used when room was needed"


@dataclass(frozen=True, slots=True, eq=False)
class StoredPrefix:
    """A row's beginning in host memory."""

    tokens: tuple[int, ...]
    saved: SavedPrefix


Source = Slot | StoredPrefix | Snapshot


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

    def room(self, needed: StoredPrefix | None) -> int:
        """How many tokens a new entry may have if only `needed` stays beside it."""
        return self._limit_tokens - (len(needed.tokens) if needed else 0)

    def make_room(self, tokens: tuple[int, ...], needed: StoredPrefix | None) -> None:
        """Evict what `tokens` contains, then the least recently used until it fits; never `needed`."""
        spare = [entry for entry in self._entries if entry is not needed]
        for entry in spare:
            if tokens[: len(entry.tokens)] == entry.tokens:
                self.evict(entry, Eviction.CONTAINED)
        while not self._fits(len(tokens)):
            oldest = next(entry for entry in self._entries if entry is not needed)
            self.evict(oldest, Eviction.LEAST_RECENTLY_USED)

    def _fits(self, tokens: int) -> bool:
        used = sum(len(entry.tokens) for entry in self._entries)
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


class PrefixCache:
    """Gives prompts their slots, filled with all that is known of their beginning. Used by the engine's thread.

    `limit_bytes` bounds what is kept of overwritten slots; 0, or a backend that cannot copy, leaves each prompt
    what its own slot happens to hold. `snapshots` are the beginnings on disk, if any may be there.
    """

    def __init__(
        self, backend: Backend, pool: SlotPool, limit_bytes: int, snapshots: SnapshotFolder | None = None
    ) -> None:
        self._backend = backend
        self._pool = pool
        self._enabled = limit_bytes > 0 and backend.can_copy
        if limit_bytes > 0 and not backend.can_copy:
            log.info("prompts are not shared between slots: the KV cache lies in the memory of %s", backend.provider)
        self.store = PrefixStore(limit_bytes, backend.kv_bytes_per_token)
        self._snapshots = snapshots
        self._pins = Pins()

    def close(self) -> None:
        """Forget all that is in memory, and wait for what is being written to disk."""
        self.store.clear()
        if self._snapshots:
            self._snapshots.close()

    def take(self, prompt: Sequence[int]) -> Slot | None:
        """A free slot that holds as much of `prompt` as any row or stored prefix does; None when all are busy.

        What the slot held besides is stored if it is worth it. The last two prompt tokens are never reused.
        """
        if not (self._enabled and self._pool.free):
            return self._pool.take(prompt)
        on_disk = self._snapshots.snapshots if self._snapshots else ()
        source, reach = self._longest(prompt, (*self._pool.slots, *self.store, *on_disk))
        parted = len(source.tokens) > reach
        slot, shared = self._target(prompt)
        copied = source if reach - shared >= MIN_GAIN_TOKENS else None
        needed = copied if isinstance(copied, StoredPrefix) else None
        self._keep(slot, shared, needed)
        self._pool.claim(slot, shared)
        if copied:
            self._fill(slot, copied, prompt[:reach])
        if parted and reach >= MIN_PINNED_TOKENS:
            self._pin(slot, tuple(prompt[:reach]))
        return slot

    def _pin(self, slot: Slot, tokens: tuple[int, ...]) -> None:
        """Keep on disk what this prompt and others share, which part from each other after about `tokens`."""
        folder = self._snapshots
        if folder is None:
            return
        most = min(len(slot.tokens), folder.fitting(self._backend.kv_bytes_per_token))
        shared = self._pins.parted(tokens)[:most]
        if len(shared) >= MIN_PINNED_TOKENS and folder.wants(shared):
            folder.write(shared, self._backend.save(slot.index, len(shared)))

    def catch_up(self, slot: Slot, prompt: Sequence[int]) -> int:
        """Bring into a slot what other slots meanwhile hold more of its prompt; returns the tokens gained.

        Requests that begin alike and arrive together so read their common beginning once, in turns.
        """
        held = len(slot.tokens)
        ahead = [other for other in self._pool.slots if len(other.tokens) - held >= MIN_GAIN_TOKENS]
        if not (self._enabled and ahead):
            return 0
        source, reach = self._longest(prompt, ahead)
        if reach - held < MIN_GAIN_TOKENS:
            return 0
        self._fill(slot, source, prompt[:reach])
        return reach - held

    def _longest(self, prompt: Sequence[int], sources: Iterable[Source]) -> tuple[Source, int]:
        """The source with the longest common prefix; the first among equals."""
        limit = len(prompt) - MIN_PREFILL_TOKENS
        lengths = ((source, common_prefix(source.tokens, prompt, limit)) for source in sources)
        return max(lengths, key=lambda pair: pair[1])

    def _target(self, prompt: Sequence[int]) -> tuple[Slot, int]:
        """The free slot to take and how much of the prompt it holds itself.

        One that loses little by it, as the pool would choose; else the least recently used, since whatever the
        prompt needs can be copied into it.
        """
        shared = self._pool.shared(prompt)
        cheap = {slot: length for slot, length in shared.items() if len(slot.tokens) - length < MIN_GAIN_TOKENS}
        slot = self._pool.best(cheap) if cheap else min(shared, key=lambda each: (each.last_used, each.index))
        return slot, shared[slot]

    def _keep(self, slot: Slot, shared: int, needed: StoredPrefix | None) -> None:
        """Store what the slot holds beyond its first `shared` tokens, unless it is short or held elsewhere too."""
        tokens = tuple(slot.tokens[: self.store.room(needed)])
        if len(tokens) - shared < MIN_GAIN_TOKENS:
            return
        others = (*(other for other in self._pool.slots if other is not slot), *self.store)
        covered = max((common_prefix(other.tokens, tokens, len(tokens)) for other in others), default=0)
        if len(tokens) - covered >= MIN_GAIN_TOKENS:
            self.store.make_room(tokens, needed)
            self.store.add(StoredPrefix(tokens, self._backend.save(slot.index, len(tokens))))

    def _fill(self, slot: Slot, source: Source, tokens: Sequence[int]) -> None:
        """Copy the source's first tokens into the slot, which names them only once they are there."""
        if isinstance(source, Slot):
            self._backend.copy(source.index, slot.index, len(tokens))
        elif isinstance(source, Snapshot):
            saved = self._snapshots.load(source) if self._snapshots else None
            if saved is None:  # damaged: the prompt is read instead
                return
            self._backend.restore(slot.index, saved, len(tokens))
        else:
            self._backend.restore(slot.index, source.saved, len(tokens))
            self.store.touch(source)
            if len(source.tokens) == len(tokens):
                self.store.evict(source, Eviction.LIVE)
        slot.tokens[:] = tokens
