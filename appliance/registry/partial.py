"""A blob that is half there: `blobs/sha256-<hex>-partial`, sparse and as long as the blob, and a journal beside it.

The journal, `…-partial-journal`, gets a line for everything that happens to a piece:

    + OFFSET LENGTH CRC32     it is there
    - OFFSET                  it is not what it was
    ? OFFSET                  what begins here may have been on its way before, and got lost

Nothing has to be written in any order: what a power cut took away no longer fits its checksum, and is fetched again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import zlib
from pathlib import Path

from appliance.store.blobs import Blobs
from appliance.store.disk import sync_folder

log = logging.getLogger(__name__)

PIECE_BYTES = 1 << 20
SYNC_BYTES = 64 << 20
LOST_BYTES = 2 << 20  # what may be on its way in one connection: a piece, and what its socket holds

Range = tuple[int, int]  # start and end, as in range()


class Partial:
    """The state of one blob's download on disk; its methods may be called from several threads at once.

    Opening takes up what an earlier download left, be it this server's or, in its own form, Ollama's.
    """

    def __init__(self, blobs: Blobs, digest: str, size: int) -> None:
        self.digest = digest
        self.size = size
        self.completed = 0
        self._blobs = blobs
        self._path = partial_path(blobs, digest)
        self._journal_path = self._path.with_name(f"{self._path.name}-journal")
        self._pieces: dict[int, Range] = {}  # by offset: length and CRC
        self._doubts: list[int] = []
        self._unsynced = 0
        self._lock = threading.Lock()
        resumed = self._path.exists()
        with blobs.space.writing(size - partial_bytes(blobs, digest)):
            self._data = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            os.ftruncate(self._data, size)
            lines = self._journal_path.read_text(errors="replace").splitlines() if self._journal_path.exists() else []
            self._journal = os.open(self._journal_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            if resumed:
                self._resume(lines)

    def gaps(self) -> list[Range]:
        """The ranges that are missing, in order."""
        found, position = [], 0
        for start, end in self.pieces():
            if start > position:
                found.append((position, start))
            position = max(position, end)
        return [*found, (position, self.size)] if position < self.size else found

    def pieces(self) -> list[Range]:
        """The ranges that are there, in order."""
        with self._lock:
            return [(offset, offset + length) for offset, (length, _) in sorted(self._pieces.items())]

    def store(self, offset: int, data: bytes) -> None:
        """Keep a piece, in place of the one that begins there. Raises NotEnoughDisk."""
        with self._blobs.space.writing(len(data)):
            written = 0
            while written < len(data):
                written += os.pwrite(self._data, data[written:], offset + written)
            with self._lock:
                self._keep(offset, len(data), zlib.crc32(data))
                self._unsynced += len(data)
                if due := self._unsynced >= SYNC_BYTES:
                    self._unsynced = 0
            if due:
                os.fdatasync(self._data)
                os.fdatasync(self._journal)

    def drop_damaged(self) -> bool:
        """Forget pieces that are no longer what they were when they came; whether there were any."""
        damaged = [
            offset
            for offset, (length, crc) in sorted(self._pieces.items())
            if zlib.crc32(self.read(offset, offset + length)) != crc
        ]
        for offset in damaged:
            self._note(f"- {offset}")
            self.completed -= self._pieces.pop(offset)[0]
        return bool(damaged)

    def doubt(self, offset: int) -> None:
        """Note that what begins here is about to be fetched, perhaps for the second time."""
        self._note(f"? {offset}")
        self._doubts.append(offset)

    def doubtful(self, start: int, end: int) -> bool:
        """Whether some of this range may have been fetched twice."""
        return any(start < doubt + LOST_BYTES and doubt < end for doubt in self._doubts)

    def read(self, start: int, end: int) -> bytes:
        """What is on disk there."""
        return os.pread(self._data, end - start, start)

    def publish(self) -> None:
        """Make it a blob of the store. Whoever calls this has verified it."""
        with self._blobs.space.writing(0):
            os.fsync(self._data)
        os.replace(self._path, self._blobs.path(self.digest))
        sync_folder(self._blobs.folder)
        self.discard()

    def discard(self) -> None:
        """Remove it."""
        self.close()
        for path in (self._path, self._journal_path):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the files and leave them; harmless when repeated. No other method may be running or follow."""
        for handle in (self._data, self._journal):
            if handle >= 0:
                os.close(handle)
        self._data = self._journal = -1

    def _resume(self, lines: list[str]) -> None:
        for line in lines:
            with contextlib.suppress(ValueError, KeyError):  # a line that was cut short; or what it speaks of
                match line.split(" "):
                    case ["+", offset, length, crc]:
                        self._learn(int(offset), int(length), int(crc))
                    case ["-", offset]:
                        self.completed -= self._pieces.pop(int(offset))[0]
                    case ["?", offset]:
                        self._doubts.append(int(offset))
        self._note("")  # ends a line that was cut short
        if not lines:
            self._adopt()
        for start, _ in self.gaps():
            self.doubt(start)
        log.info("resuming the download of %s at %d of %d bytes", self.digest, self.completed, self.size)

    def _adopt(self) -> None:
        """Take over what Ollama noted beside its own partial file."""
        for path in sorted(self._path.parent.glob(f"{self._path.name}-[0-9]*")):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                note = json.loads(path.read_bytes())
                start, end = note["Offset"], note["Offset"] + note["Completed"]
                for offset in range(start, min(end, self.size), PIECE_BYTES):
                    data = self.read(offset, min(offset + PIECE_BYTES, end, self.size))
                    self._keep(offset, len(data), zlib.crc32(data))
            path.unlink()

    def _keep(self, offset: int, length: int, crc: int) -> None:
        self._note(f"+ {offset} {length} {crc}")
        self._learn(offset, length, crc)

    def _learn(self, offset: int, length: int, crc: int) -> None:
        if offset < 0 or length <= 0 or offset + length > self.size:
            raise ValueError("beyond the end")
        self.completed += length - self._pieces.get(offset, (0, 0))[0]
        self._pieces[offset] = length, crc

    def _note(self, line: str) -> None:
        os.write(self._journal, f"{line}\n".encode())


def partial_path(blobs: Blobs, digest: str) -> Path:
    """Where the bytes of a blob are while it is downloaded."""
    path = blobs.path(digest)
    return path.with_name(f"{path.name}-partial")


def partial_bytes(blobs: Blobs, digest: str) -> int:
    """The disk space that a download of this blob has taken already."""
    try:
        return partial_path(blobs, digest).stat().st_blocks * 512
    except FileNotFoundError:
        return 0
