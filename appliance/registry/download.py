"""One blob from elsewhere into the store: in parts over several connections, resumed where an earlier attempt ended.

Nothing is visible under a blob's name before its digest was verified. Bytes that changed on this machine's disk are
known by their checksums and fetched again. Of bytes that changed on the way nobody knows which they are: then the blob
is fetched a second time, part by part, but only until what differed has made the digest right.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import httpx

from appliance.errors import RegistryError
from appliance.registry.partial import PIECE_BYTES, Partial, Range
from appliance.registry.transport import reason
from appliance.stepping import finished
from appliance.store.blobs import Blobs

log = logging.getLogger(__name__)

CONNECTIONS = 8
PART_BYTES = 32 << 20
FIRST_PIECE_BYTES = 64 << 10
LONGEST_WAIT_S = 30.0
MOST_DIFFERENT_PARTS = 8  # in a second download; more are no accident of the way


class Interrupted(Exception):
    """A failure that may not come again: what a Source raises to be asked once more."""


class Source(Protocol):
    """Where a blob can be had."""

    def open(self, start: int, end: int) -> AbstractAsyncContextManager[httpx.Response]:
        """An answer to a request for the bytes from `start` to `end`: 206, or 200 where ranges are not understood.

        Raises RegistryError for a refusal, Interrupted or httpx.TransportError for what may pass.
        """


@dataclass(frozen=True, slots=True)
class Patience:
    """How often something is tried without gaining a byte, and how long the first pause is; each is twice the last."""

    attempts: int = 6
    pause_s: float = 1.0


Keep = Callable[[int, bytes], Awaitable[None]]
"""Takes what arrived: an offset and the bytes there."""


class Download:
    """Fetches one blob."""

    def __init__(self, blobs: Blobs, digest: str, size: int, source: Source, patience: Patience) -> None:
        self.digest = digest
        self.size = size
        self._blobs = blobs
        self._source = source
        self._patience = patience
        self._partial: Partial
        self._ranged = False  # whether the source has shown that it understands ranges
        self._answered = asyncio.Event()  # set once that is known
        self._waiting: deque[Range] = deque()

    @property
    def completed(self) -> int:
        """How many bytes are on the disk."""
        return self._partial.completed if hasattr(self, "_partial") else 0

    @property
    def front(self) -> int:
        """How many bytes from its beginning are on the disk."""
        return next((start for start, _ in self._partial.gaps()), self.size) if hasattr(self, "_partial") else 0

    async def run(self) -> None:
        """Fetch, verify and publish it. Cancelled, it leaves what is there for the next attempt.

        Raises RegistryError, NotEnoughDisk. A blob that is wrong the second time too is thrown away.
        """
        self._partial = await finished(Partial, self._blobs, self.digest, self.size)
        try:
            await self._fill()
            if await self._digest() != self.digest:
                await self._mend()
            await finished(self._partial.publish)
        finally:
            self._partial.close()

    async def _mend(self) -> None:
        if await finished(self._partial.drop_damaged):
            log.warning("parts of %s were damaged on disk and are fetched again", self.digest)
            await self._fill()
        if (found := await self._digest()) != self.digest:
            log.warning("%s arrived as %s: fetching it again to see what differs", self.digest, found)
            await self._fetch_again()
            if (found := await self._digest()) != self.digest:
                self._partial.discard()
                raise RegistryError(f"digest mismatch, file must be downloaded again: want {self.digest}, got {found}")

    async def _fill(self) -> None:
        """Fetch all that is missing."""
        self._waiting = deque(part for gap in self._partial.gaps() for part in split(gap, PART_BYTES))
        if not self._waiting:
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._work())
                await self._answered.wait()  # one that does not understand ranges sends everything to the first
                for _ in range(min(CONNECTIONS - 1, len(self._waiting))):
                    group.create_task(self._work())
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _work(self) -> None:
        while self._waiting:
            start, end = self._waiting.popleft()
            if not await self._fetch(start, end, self._store):
                self._waiting.clear()
        self._answered.set()

    async def _fetch(self, start: int, end: int, keep: Keep) -> bool:
        """Hand all bytes from `start` to `end` to `keep`, whatever it takes.

        False if the source does not understand ranges; then `keep` has got all bytes of the blob. Raises RegistryError
        when patience is at an end.
        """
        failures = 0
        part = _Part(start, end)
        while part.start < part.end:
            begun = part.start, self._partial.completed
            try:
                async with self._source.open(part.start, part.end) as response:
                    if response.status_code != 206:
                        await self._take_whole(response, keep)
                        return False
                    self._check_range(response, part)
                    self._ranged = True
                    self._answered.set()
                    await self._take(response, part, keep)
                if part.start < part.end:
                    raise Interrupted("the answer ended early")
            except httpx.ReadTimeout:
                self._partial.doubt(part.start)
                log.info("a part of %s stalled at %d; asking again", self.digest, part.start)
            except (httpx.TransportError, Interrupted) as error:
                gained = (part.start, self._partial.completed) != begun
                failures = 1 if gained else failures + 1
                if not isinstance(error, Interrupted | httpx.RemoteProtocolError):  # after an orderly end all has come
                    self._partial.doubt(part.start)
                log.info("a part of %s broke off at %d: %s", self.digest, part.start, reason(error))
                if failures >= self._patience.attempts:
                    raise RegistryError(f"max retries exceeded: {reason(error)}") from error
                if not gained:
                    await asyncio.sleep(min(self._patience.pause_s * 2 ** (failures - 1), LONGEST_WAIT_S))
        return True

    async def _take(self, response: httpx.Response, part: _Part, keep: Keep) -> None:
        """Hand on what arrives, piece by piece, also what came before a failure.

        Pieces grow with what has come, so that even of answers cut short over and over most is kept.
        """
        buffer, begin = bytearray(), part.start
        try:
            async for data in response.aiter_raw():
                data = data[: part.end - part.start - len(buffer)]
                buffer += data
                while len(buffer) >= (piece := min(max(FIRST_PIECE_BYTES, (part.start - begin) // 4), PIECE_BYTES)):
                    await self._hand_on(part, buffer, piece, keep)
                if part.start + len(buffer) >= part.end:
                    break
        finally:
            if buffer:
                await self._hand_on(part, buffer, len(buffer), keep)

    async def _hand_on(self, part: _Part, buffer: bytearray, length: int, keep: Keep) -> None:
        """Cancelled or not, the bytes are handed on, and the part begins after them."""
        start, data = part.start, bytes(buffer[:length])
        del buffer[:length]
        part.start += length
        await keep(start, data)

    async def _take_whole(self, response: httpx.Response, keep: Keep) -> None:
        """A body that begins at the beginning, whatever was asked for."""
        if self._ranged:
            raise Interrupted("a server that understood ranges does not any more")
        await self._take(response, whole := _Part(0, self.size), keep)
        if whole.start < whole.end:
            raise Interrupted("the answer ended early")

    def _check_range(self, response: httpx.Response, part: _Part) -> None:
        given = response.headers.get("content-range", "")
        span, _, total = given.removeprefix("bytes ").partition("/")
        if span.partition("-")[0] != str(part.start):
            raise Interrupted(f"another range than bytes {part.start}-{part.end - 1}: {given!r}")
        if total.isdecimal() and int(total) != self.size:
            raise RegistryError(f"{self.digest} has {total} bytes there, not {self.size} as its manifest says")

    async def _store(self, offset: int, data: bytes) -> None:
        """Keep of `data` what is not there yet."""
        if self._ranged:
            return await finished(self._partial.store, offset, data)
        for start, end in self._partial.gaps():
            start, end = max(start, offset), min(end, offset + len(data))
            if start < end:
                await finished(self._partial.store, start, data[start - offset : end - offset])

    async def _digest(self) -> str:
        hasher = hashlib.sha256()
        for part in split((0, self.size), PART_BYTES):
            await finished(self._hash, hasher, part)
        return f"sha256:{hasher.hexdigest()}"

    def _hash(self, hasher: hashlib._Hash, part: Range) -> None:
        for start, end in split(part, PIECE_BYTES):
            hasher.update(self._partial.read(start, end))

    async def _fetch_again(self) -> None:
        """Fetch parts a second time until the digest is right; first those that came but once so far."""
        parts = _groups(self._partial) if self._ranged else [(0, self.size)]
        before = [hashlib.sha256()]  # what was hashed before each part
        for part in parts:
            before.append(before[-1].copy())
            await finished(self._hash, before[-1], part)
        different = 0
        for index in sorted(range(len(parts)), key=lambda index: self._partial.doubtful(*parts[index])):
            comparison = _Comparison(self._partial)
            await self._fetch(*parts[index], comparison.keep)
            if not comparison.differs:
                continue
            different += 1
            for later in range(index, len(parts)):
                before[later + 1] = before[later].copy()
                await finished(self._hash, before[later + 1], parts[later])
            if f"sha256:{before[-1].hexdigest()}" == self.digest or different > MOST_DIFFERENT_PARTS:
                return


class _Comparison:
    """Puts what arrives in the place of what is there, and knows whether that was different."""

    def __init__(self, partial: Partial) -> None:
        self.differs = False
        self._partial = partial
        self._pieces = partial.pieces()

    async def keep(self, offset: int, data: bytes) -> None:
        """A Keep."""
        await finished(self._compare, offset, data)

    def _compare(self, offset: int, data: bytes) -> None:
        for start, end in self._pieces:
            first, last = max(start, offset), min(end, offset + len(data))
            if first >= last:
                continue
            old = self._partial.read(start, end)
            new = old[: first - start] + data[first - offset : last - offset] + old[last - start :]
            if new != old:
                self.differs = True
                self._partial.store(start, new)


@dataclass
class _Part:
    """A range that shrinks as its bytes arrive."""

    start: int
    end: int


def split(whole: Range, length: int) -> Iterator[Range]:
    """A range in parts, the last one perhaps shorter."""
    for start in range(whole[0], whole[1], length):
        yield start, min(start + length, whole[1])


def _groups(partial: Partial) -> list[Range]:
    """Neighbouring pieces together, up to half a part's length, and none that is doubtful with one that is not."""
    groups: list[Range] = []
    for start, end in partial.pieces():
        joins = groups and groups[-1][1] == start and end - groups[-1][0] <= PART_BYTES // 2
        if joins and partial.doubtful(*groups[-1]) == partial.doubtful(start, end):
            groups[-1] = groups[-1][0], end
        else:
            groups.append((start, end))
    return groups
