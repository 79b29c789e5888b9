"""One blob of the store to a registry, in parts.

A registry either takes the parts itself, one after the other, or sends each to a place of its own (307), where several
go at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from appliance.errors import RegistryError
from appliance.registry.client import Registry, check
from appliance.registry.download import LONGEST_WAIT_S, Interrupted, Patience, split
from appliance.registry.partial import PIECE_BYTES, Range
from appliance.registry.transport import Place, reason
from appliance.stepping import finished

log = logging.getLogger(__name__)

PARTS = 16
LEAST_PART_BYTES = 100_000_000
MOST_PART_BYTES = 1_000_000_000
AT_A_TIME = 4
STREAM = "application/octet-stream"


@dataclass(eq=False)
class _Part:
    """A range of the blob; once it was sent, `md5` is that of its bytes."""

    range: Range
    md5: bytes = b""
    sent: int = 0

    @property
    def size(self) -> int:
        return self.range[1] - self.range[0]


class Upload:
    """Sends one blob. `completed` are the bytes that were sent."""

    def __init__(self, registry: Registry, path: Path, digest: str, size: int, patience: Patience) -> None:
        self._registry = registry
        self._path = path
        self._digest = digest
        self._size = size
        self._patience = patience
        self._parts: list[_Part] = []

    @property
    def completed(self) -> int:
        """How many bytes have been sent."""
        return sum(part.sent for part in self._parts)

    async def run(self, mount: str = "") -> bool:
        """Send the blob; False if the registry could take it from its repository `mount`. Raises RegistryError."""
        for attempt in range(self._patience.attempts):
            if attempt:
                await asyncio.sleep(min(self._patience.pause_s * 2 ** (attempt - 1), LONGEST_WAIT_S))
            try:
                if (place := await self._begin(mount)) is None:
                    return False
                await self._finish(await self._send(place))
                return True
            except (httpx.TransportError, Interrupted) as error:
                log.info("sending %s broke off: %s", self._digest, reason(error))
                failure: Exception = error
        raise RegistryError(f"max retries exceeded: {reason(failure)}") from failure

    async def _begin(self, mount: str) -> Place | None:
        query = {"mount": self._digest, "from": mount} if mount else {}
        place = self._registry.remote.at("blobs/uploads/", **query)
        async with self._registry.request("POST", place, {"Content-Length": "0"}) as (response, place):
            await check(response)
            return None if response.status_code == 201 else self._next(place, response)

    def _next(self, place: Place, response: httpx.Response) -> Place:
        header = "Docker-Upload-Location" if "Docker-Upload-Location" in response.headers else "Location"
        return self._registry.transport.follow(place, response, header)

    async def _send(self, place: Place) -> Place:
        """Send all parts; returns where to conclude the upload."""
        length = min(max(self._size // PARTS, LEAST_PART_BYTES), MOST_PART_BYTES)
        self._parts = [_Part(part) for part in split((0, self._size), length)]
        some = asyncio.Semaphore(AT_A_TIME)
        try:
            async with asyncio.TaskGroup() as group:
                for part in self._parts:
                    place, elsewhere = await self._patch(place, part)
                    if elsewhere:
                        group.create_task(self._put(elsewhere, part, some))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return place

    async def _patch(self, place: Place, part: _Part) -> tuple[Place, Place | None]:
        """Offer a part to the registry; returns where to go on, and where it wants the part instead, if it does."""
        start, end = part.range
        headers = {
            "Content-Range": f"{start}-{end - 1}",
            "Content-Length": str(part.size),
            "Content-Type": STREAM,
            "X-Redirect-Uploads": "1",
        }
        async with self._registry.request("PATCH", place, headers, lambda: self._bytes(part)) as (response, place):
            if response.status_code == 307:
                return self._next(place, response), self._registry.transport.follow(place, response)
            await check(response)
            return self._next(place, response), None

    async def _put(self, place: Place, part: _Part, some: asyncio.Semaphore) -> None:
        headers = {"Content-Length": str(part.size), "Content-Type": STREAM}
        async with some:
            for attempt in range(self._patience.attempts):
                if attempt:
                    await asyncio.sleep(min(self._patience.pause_s * 2 ** (attempt - 1), LONGEST_WAIT_S))
                try:
                    sending = self._registry.transport.stream("PUT", place, headers=headers, content=self._bytes(part))
                    async with sending as (response, _):
                        await check(response)
                        return
                except (httpx.TransportError, Interrupted) as error:
                    failure: Exception = error
        raise RegistryError(f"max retries exceeded: {reason(failure)}") from failure

    async def _finish(self, place: Place) -> None:
        whole = hashlib.md5(b"".join(part.md5 for part in self._parts), usedforsecurity=False).hexdigest()
        query = {"digest": self._digest, "etag": f"{whole}-{len(self._parts)}"}
        place = Place(place.url.copy_merge_params(query), place.named, place.public_only)
        async with self._registry.request("PUT", place, {"Content-Length": "0", "Content-Type": STREAM}) as (
            response,
            _,
        ):
            await check(response)

    async def _bytes(self, part: _Part) -> AsyncIterator[bytes]:
        hasher = hashlib.md5(usedforsecurity=False)
        part.sent = 0
        with self._path.open("rb") as file:
            for start, end in split(part.range, PIECE_BYTES):
                data = await finished(os.pread, file.fileno(), end - start, start)
                if len(data) != end - start:
                    raise RegistryError(f"the blob {self._digest} is shorter than its manifest says")
                yield data
                hasher.update(data)
                part.sent = end - part.range[0]
        part.md5 = hasher.digest()
