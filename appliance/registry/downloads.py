"""One download per blob, however many ask for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from appliance.registry.download import Download, Patience, Source
from appliance.store.blobs import Blobs

TICK_S = 0.06


@dataclass(eq=False)
class _Running:
    download: Download
    task: asyncio.Task[None]
    waiting: int = 0


class Downloads:
    """The downloads of one store. Use from one event loop."""

    def __init__(self, blobs: Blobs, patience: Patience = Patience()) -> None:  # noqa: B008
        self._blobs = blobs
        self._patience = patience
        self._running: dict[str, _Running] = {}

    async def fetch(self, digest: str, size: int, source: Source) -> AsyncGenerator[int, None]:
        """Get a blob into the store, and tell again and again how many of its bytes are there.

        Whoever comes while it is under way joins in. It ends when the last one closes the generator; the next attempt
        goes on from there. Raises RegistryError, NotEnoughDisk.
        """
        while (running := self._running.get(digest)) and running.waiting == 0:
            await asyncio.wait({running.task})  # which the last to leave has cancelled
        if self._blobs.has(digest):
            yield size
            return
        running = self._running.get(digest) or self._start(digest, size, source)
        running.waiting += 1
        told = -1
        try:
            while not running.task.done():
                if running.download.completed != told:
                    told = running.download.completed
                    yield told
                await asyncio.wait({running.task}, timeout=TICK_S)
            running.task.result()
            if told != size:
                yield size
        finally:
            running.waiting -= 1
            if running.waiting == 0:
                running.task.cancel()
                await asyncio.gather(running.task, return_exceptions=True)

    def front(self, digest: str) -> int:
        """How many bytes from its beginning are on the disk of a blob that is being fetched; 0 for another."""
        running = self._running.get(digest)
        return running.download.front if running else 0

    def _start(self, digest: str, size: int, source: Source) -> _Running:
        download = Download(self._blobs, digest, size, source, self._patience)
        running = _Running(download, asyncio.create_task(download.run(), name=f"download of {digest}"))
        self._running[digest] = running
        running.task.add_done_callback(lambda _: self._running.pop(digest, None))
        return running
