"""The prefix cache: what one request has computed of a prompt is copied for the next, not computed again.

A prompt's keys and values depend on nothing but the tokens before them, so any row that begins alike will do: one
that is free, one whose request still runs (a slot names only tokens that are in its row, so a context that shifted
counts for what it kept), a copy in host memory of a row that was overwritten, or one on disk (`snapshot.py`).

Conversations that begin alike take turns in one row: the row keeps what they share, and only what the earlier one
adds to that goes to host memory, where it waits as a branch for its stem.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from appliance.engine.backend import Backend
from appliance.engine.prefix_store import Eviction, PrefixStore, StoredPrefix
from appliance.engine.slots import MIN_PREFILL_TOKENS, Slot, SlotPool, common_prefix
from appliance.engine.snapshot import MIN_PINNED_TOKENS, Pins, Snapshot, SnapshotFolder

log = logging.getLogger(__name__)

MIN_GAIN_TOKENS = 16
"""Fewer tokens than this are computed again rather than copied or kept.

SmolLM2-135M, two threads: copying a token costs 2 µs, 15 µs where the row's pages are new, saving it 4 µs, prefilling
it 600 to 800 µs. So copying always wins; but below this a prefill takes 13 ms, not worth an entry or a row.
"""

Source = Slot | StoredPrefix | Snapshot


@dataclass(frozen=True, slots=True)
class Shared:
    """What a source has in common with a prompt: positions `start` to `stop`."""

    source: Source
    start: int
    stop: int


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
        """A free slot that holds as much of `prompt` as all rows and stored prefixes do; None when all are busy.

        What the slot held besides is stored if it is worth it. The last two prompt tokens are never reused.
        """
        if not (self._enabled and self._pool.free):
            return self._pool.take(prompt)
        on_disk = self._snapshots.snapshots if self._snapshots else ()
        known = shared_with(prompt, (*self._pool.slots, *self.store, *on_disk), len(prompt) - MIN_PREFILL_TOKENS)
        reach = reached(chain(known))
        parted = any(each.stop == reach < len(each.source.tokens) for each in known)
        slot, held = self._target(prompt, reach)
        parts = chain(known, held) if reach - held >= MIN_GAIN_TOKENS else []
        self._keep(slot, held, [part.source for part in parts if isinstance(part.source, StoredPrefix)])
        self._pool.claim(slot, held)
        self._fill(slot, parts, prompt)
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
        parts = chain(shared_with(prompt, ahead, len(prompt) - MIN_PREFILL_TOKENS), held)
        gained = reached(parts, held) - held
        if gained < MIN_GAIN_TOKENS:
            return 0
        self._fill(slot, parts, prompt)
        return gained

    def _target(self, prompt: Sequence[int], reach: int) -> tuple[Slot, int]:
        """The free slot to take and how much of the prompt it holds itself, where `reach` tokens can be had in all.

        The one that holds most of it, if less has to be put away from it than would have to be copied into another:
        one that loses little, as the pool would choose, else the least recently used.
        """
        shared = self._pool.shared(prompt)
        cheap = {slot: length for slot, length in shared.items() if len(slot.tokens) - length < MIN_GAIN_TOKENS}
        other = self._pool.best(cheap) if cheap else min(shared, key=lambda each: (each.last_used, each.index))
        stem = self._pool.best(shared)
        branch = len(stem.tokens) - shared[stem]
        if branch < shared[stem] - shared[other] and branch <= self.store.room(()):
            return stem, shared[stem]
        return other, shared[other]

    def _keep(self, slot: Slot, held: int, needed: Collection[StoredPrefix]) -> None:
        """Store what the slot has beyond its first `held` tokens, unless it is short or known elsewhere too.

        A stem worth copying stays in the slot; a shorter one is stored with what follows it.
        """
        start = held if held >= MIN_GAIN_TOKENS else 0
        tokens = tuple(slot.tokens[: start + self.store.room(needed)])
        if len(tokens) - held < MIN_GAIN_TOKENS:
            return
        others = (*(other for other in self._pool.slots if other is not slot), *self.store)
        known = reached(chain(shared_with(tokens, others, len(tokens)), start), start)
        if len(tokens) - known >= MIN_GAIN_TOKENS:
            self.store.make_room(tokens, start, needed)
            self.store.add(StoredPrefix(tokens, self._backend.save(slot.index, len(tokens), start), start))

    def _fill(self, slot: Slot, parts: Sequence[Shared], prompt: Sequence[int]) -> None:
        """Copy the parts into the slot, one behind the other; it names their tokens only once they are there."""
        for part in parts:
            source, stop = part.source, part.stop
            if isinstance(source, Slot):
                self._backend.copy(source.index, slot.index, stop, len(slot.tokens))
            elif isinstance(source, Snapshot):
                saved = self._snapshots.load(source) if self._snapshots else None
                if saved is None:  # damaged: the prompt is read instead
                    return
                self._backend.restore(slot.index, saved, stop)
            else:
                self._backend.restore(slot.index, source.saved, stop, source.start)
            slot.tokens[:] = prompt[:stop]
        self._note_use(parts)

    def _note_use(self, parts: Sequence[Shared]) -> None:
        """Stems last, so that they outlive their branches; what is whole in a slot again leaves memory."""
        for part in reversed(parts):
            if isinstance(part.source, StoredPrefix):
                self.store.touch(part.source)
                if len(part.source.tokens) == part.stop:
                    self.store.evict(part.source, Eviction.LIVE)


def shared_with(tokens: Sequence[int], sources: Iterable[Source], limit: int) -> list[Shared]:
    """What each source holds of the first `limit` of `tokens`, if anything."""
    found = (
        Shared(
            source,
            source.start if isinstance(source, StoredPrefix) else 0,
            common_prefix(source.tokens, tokens, limit),
        )
        for source in sources
    )
    return [each for each in found if each.stop > each.start]


def chain(known: Iterable[Shared], held: int = 0) -> list[Shared]:
    """Those that together reach furthest beyond `held` tokens, each beginning no later than the one before it ends."""
    parts: list[Shared] = []
    end = held
    # Of those that begin alike the one that reaches furthest comes first, and no other is needed.
    for each in sorted(known, key=lambda each: (each.start, -each.stop)):
        if each.start <= end < each.stop:
            parts.append(each)
            end = each.stop
    return parts


def reached(parts: Sequence[Shared], held: int = 0) -> int:
    """Where a chain ends."""
    return parts[-1].stop if parts else held
