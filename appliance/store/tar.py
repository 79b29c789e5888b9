"""POSIX tar archives of plain files, as a stream: what is written is the same for the same files."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from appliance.errors import InvalidArchive

BLOCK_BYTES = tarfile.BLOCKSIZE
MAX_EXTENDED_BYTES = 1 << 16  # of a header for what the ordinary one has no room for: long names and large sizes

_RECORD = re.compile(rb"([1-9][0-9]{0,4}) (path|size)=")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in an archive."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class EndOfEntry:
    """All bytes of the newest entry have been there."""


def header(entry: Entry) -> bytes:
    """What stands before the bytes of a file."""
    info = tarfile.TarInfo(entry.name)
    info.size = entry.size
    return info.tobuf(tarfile.PAX_FORMAT)


def padding(size: int) -> bytes:
    """What stands after `size` bytes of a file."""
    return bytes(-size % BLOCK_BYTES)


def end(size: int) -> bytes:
    """What ends an archive whose entries take `size` bytes."""
    return bytes(2 * BLOCK_BYTES + -(size + 2 * BLOCK_BYTES) % tarfile.RECORDSIZE)


class TarReader:
    """Takes an archive in pieces of any length; raises InvalidArchive. Never holds more than a few headers."""

    def __init__(self) -> None:
        self._block = bytearray()
        self._left = 0  # bytes of the entry that are still to come
        self._padding = 0
        self._extended: bytearray | None = None  # the header for long names and large sizes that is being read
        self._overrides: dict[str, str] = {}
        self._zeros = 0  # bytes at the end of the archive
        self._inside = False  # an entry that the caller was told of

    def feed(self, data: bytes) -> Iterator[Entry | bytes | EndOfEntry]:
        """What this piece brings: an entry, pieces of its bytes, its end, the next one."""
        rest = memoryview(data)
        while rest:
            if self._left:
                piece, rest = bytes(rest[: self._left]), rest[self._left :]
                self._left -= len(piece)
                if self._extended is None:
                    yield piece
                else:
                    self._extended += piece
                yield from self._ended()
            elif self._padding:
                piece, rest = bytes(rest[: self._padding]), rest[self._padding :]
                self._padding -= len(piece)
                if any(piece):
                    raise InvalidArchive("there is something between two of its files")
            else:
                missing = BLOCK_BYTES - len(self._block)
                self._block += rest[:missing]
                rest = rest[missing:]
                if len(self._block) == BLOCK_BYTES:
                    block = bytes(self._block)
                    self._block.clear()
                    yield from self._header(block)

    def close(self) -> None:
        """There is no more; raises InvalidArchive if there should be."""
        if self._left or self._padding or self._block or self._inside or self._zeros < 2 * BLOCK_BYTES:
            raise InvalidArchive("it is cut short")

    def _header(self, block: bytes) -> Iterator[Entry | EndOfEntry]:
        if not any(block) and self._extended is None and not self._overrides:
            self._zeros += BLOCK_BYTES
            if self._zeros > tarfile.RECORDSIZE + BLOCK_BYTES:
                raise InvalidArchive("there is something behind its end")
            return
        if self._zeros:
            raise InvalidArchive("there is something behind its end")
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
            size = int(self._overrides.get("size", info.size))
        except (tarfile.HeaderError, ValueError) as error:
            raise InvalidArchive("it is damaged, or no tar") from error
        if size < 0:
            raise InvalidArchive("a file in it has a size below zero")
        self._left = size
        self._padding = len(padding(size))
        if info.type == tarfile.XHDTYPE:
            self._begin_extended(size)
            return
        name = self._overrides.get("path", info.name)
        self._overrides = {}
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.linkname:
            raise InvalidArchive(f"{name!r} in it is no plain file")
        self._inside = True
        yield Entry(name, size)
        yield from self._ended()

    def _begin_extended(self, size: int) -> None:
        if self._overrides or not 0 < size <= MAX_EXTENDED_BYTES:
            raise InvalidArchive("a header in it is too long")
        self._extended = bytearray()

    def _ended(self) -> Iterator[EndOfEntry]:
        if self._left:
            return
        if self._extended is not None:
            self._overrides = _records(bytes(self._extended))
            self._extended = None
        else:
            self._inside = False
            yield EndOfEntry()


def _records(data: bytes) -> dict[str, str]:
    """The fields of an extended header, lines of `length key=value` where the length is that of the line."""
    fields: dict[str, str] = {}
    while data:
        match = _RECORD.match(data)
        length = int(match[1]) if match else 0
        if not match or length <= match.end() or data[length - 1 : length] != b"\n":
            raise InvalidArchive("a header in it is damaged, or says more than names and sizes")
        try:
            fields[match[2].decode()] = data[match.end() : length - 1].decode()
        except UnicodeDecodeError as error:
            raise InvalidArchive("a name in it is not UTF-8") from error
        data = data[length:]
    return fields
