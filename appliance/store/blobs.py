"""Blobs: files named after the SHA-256 of what is in them, `blobs/sha256-<64 hex digits>`."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from appliance.errors import BlobNotFound, DigestMismatch, InvalidRequest
from appliance.store.disk import Space, make_folders, partial_path, sync_folder

log = logging.getLogger(__name__)

_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_FILE = re.compile(r"sha256-[0-9a-fA-F]{64}")


def hex_of(digest: str) -> str:
    """The hex digits of a digest in either spelling; raises InvalidRequest."""
    match = _DIGEST.fullmatch(digest)
    if not match:
        raise InvalidRequest("invalid digest format")
    return match[1]


def digest_of(data: bytes) -> str:
    """`sha256:<hex>` of `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class BlobWriter:
    """Bytes on their way into the store, from one thread at a time.

    Nothing is visible before commit(). Leaving a `with` block without it drops the bytes.
    """

    def __init__(self, space: Space, expected: str = "") -> None:
        self._space = space
        self._folder = space.folder
        self._expected = expected
        self._hash = hashlib.sha256()
        self._partial = partial_path(space.folder, "upload-")
        self._file = self._partial.open("xb")

    def write(self, data: bytes) -> None:
        """Append `data`; raises NotEnoughDisk, after which only abort() makes sense."""
        with self._space.writing(len(data)):
            self._file.write(data)
        self._hash.update(data)

    def seal(self) -> str:
        """Make the bytes durable, still out of sight, and return their digest. Nothing may be written any more."""
        if not self._file.closed:
            with self._space.writing(0):
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
        return f"sha256:{self._hash.hexdigest()}"

    def commit(self) -> str:
        """Make the bytes durable under their digest and return it.

        Raises DigestMismatch if they were announced with another one; they are kept all the same, under
        their own.
        """
        digest = self.seal()
        os.replace(self._partial, self._folder / digest.replace(":", "-"))
        sync_folder(self._folder)
        if self._expected and self._expected != digest:
            raise DigestMismatch(self._expected, digest)
        return digest

    def abort(self) -> None:
        """Drop what was written; harmless after commit()."""
        with contextlib.suppress(OSError):  # a full disk refuses the last flush as well
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


class Blobs:
    """The folder of blobs. Raises InvalidRequest wherever a digest is not one."""

    def __init__(self, folder: Path, floor: int = 0) -> None:
        self.folder = folder
        self.space = Space(folder, floor)
        make_folders(folder)

    def path(self, digest: str) -> Path:
        """Where the blob is, or would be."""
        return self.folder / f"sha256-{hex_of(digest)}"

    def has(self, digest: str) -> bool:
        """Whether the blob is there."""
        return self.path(digest).is_file()

    def existing(self, digest: str) -> Path:
        """The blob's path; raises BlobNotFound."""
        path = self.path(digest)
        if not path.is_file():
            raise BlobNotFound(f'blob "{digest}" not found')
        return path

    def read(self, digest: str) -> bytes:
        """A small blob's bytes; raises BlobNotFound."""
        return self.existing(digest).read_bytes()

    def writer(self, expected: str = "", length: int | None = None) -> BlobWriter:
        """Begin a blob. `expected` is compared as it is spelled; a known `length` is held against the
        free space first: NotEnoughDisk. Writing ends so too where it would cross the floor."""
        if expected:
            hex_of(expected)
        if length is not None:
            self.space.require(length)
        return BlobWriter(self.space, expected)

    def add(self, data: bytes) -> bool:
        """Store `data`; False if it was there already."""
        if self.has(digest_of(data)):
            return False
        with self.writer(length=len(data)) as writer:
            writer.write(data)
            writer.commit()
        return True

    def remove(self, digest: str) -> None:
        """Delete the blob if it is there."""
        self.path(digest).unlink(missing_ok=True)

    def digests(self) -> Iterator[str]:
        """The digests of all blobs."""
        for entry in self.folder.iterdir():
            if _FILE.fullmatch(entry.name):
                yield entry.name.replace("-", ":", 1)

    def migrate(self) -> None:
        """Rename `sha256:<hex>`, the spelling of old stores."""
        for entry in self.folder.iterdir():
            if entry.name.startswith("sha256:"):
                os.replace(entry, self.folder / entry.name.replace(":", "-"))
                log.info("renamed the blob %s", entry.name)
