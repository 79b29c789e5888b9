"""Models into the store out of an archive that packing.py made."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from appliance.errors import CorruptManifest, InvalidArchive, InvalidName
from appliance.store.blobs import BlobWriter
from appliance.store.manifests import MAX_MANIFEST_BYTES, Layer, parse_manifest
from appliance.store.names import ModelName
from appliance.store.packing import SUMS, blob_name
from appliance.store.tar import EndOfEntry, Entry, TarReader

if TYPE_CHECKING:
    from appliance.store.store import Store

MAX_TEXT_BYTES = 64 << 20  # of sums and manifests, which are held in memory


class Unpacking:
    """An archive on its way in, from one thread at a time, after which abort() always follows.

    Everything is checked against SHA256SUMS, the archive's first file, which lists the others in their order. Nothing
    is visible before commit(), and what was written until then is gone after abort(). With `dry_run` all of that is
    only checked, room on the disk included, and commit() returns what would be installed.
    """

    def __init__(self, store: Store, dry_run: bool = False) -> None:
        self.digests: set[str] = set()
        self._store = store
        self._dry_run = dry_run
        self._reader = TarReader()
        self._expected = deque([SUMS])
        self._sums: dict[str, str] = {}
        self._entry = Entry("", 0)
        self._text = bytearray()
        self._text_bytes = 0
        self._hash = hashlib.sha256()
        self._writer: BlobWriter | None = None
        self._written: list[BlobWriter] = []
        self._models = 0  # that the archive has
        self._manifests: dict[ModelName, bytes] = {}
        self._layers: dict[str, Layer] = {}

    def write(self, data: bytes) -> None:
        """Take the next piece of the archive; raises InvalidArchive, NotEnoughDisk."""
        for event in self._reader.feed(data):
            if isinstance(event, Entry):
                self._begin(event)
            elif isinstance(event, EndOfEntry):
                self._end()
            else:
                self._take(event)

    def commit(self) -> Sequence[str]:
        """That was all: let the models be seen, and return their names. Raises InvalidArchive, NotEnoughDisk."""
        self._reader.close()
        if self._expected:
            raise InvalidArchive(f"{self._expected[0]} is missing in it")
        if self._dry_run:
            return self._names()
        freed: set[str] = set()
        with self._store.unchanged():
            try:
                for writer in self._written:
                    freed.add(writer.commit())
                for name, raw in self._manifests.items():
                    freed |= self._store.install(name, raw)
            finally:
                self._store.release(self)
                self._store.remove_unused(freed)
        return self._names()

    def _names(self) -> Sequence[str]:
        return [self._store.fold(name).short for name in self._manifests]

    def abort(self) -> None:
        """Drop what was written; harmless after commit()."""
        for writer in (*self._written, *([self._writer] if self._writer else [])):
            writer.abort()
        self._store.release(self)

    def _begin(self, entry: Entry) -> None:
        expected = self._expected.popleft() if self._expected else ""
        if entry.name != expected:
            wanted = f"where {expected} should be" if expected else "that SHA256SUMS does not list"
            raise InvalidArchive(f"it has {entry.name[:400]!r} {wanted}")
        self._entry = entry
        self._hash = hashlib.sha256()
        if layer := self._layers.get(entry.name):
            if entry.size != layer.size:
                raise InvalidArchive(f"{entry.name} has {entry.size:,} bytes in it, not {layer.size:,}")
            if not self._dry_run and not self._has(layer):
                self._writer = self._store.blobs.writer(length=layer.size)
            return
        self._text.clear()
        self._text_bytes += entry.size
        if entry.size > MAX_MANIFEST_BYTES or self._text_bytes > MAX_TEXT_BYTES:
            raise InvalidArchive(f"{entry.name} is larger than {MAX_MANIFEST_BYTES:,} bytes, or all manifests are")

    def _take(self, piece: bytes) -> None:
        self._hash.update(piece)
        if self._writer:
            self._writer.write(piece)
        elif self._entry.name not in self._layers:
            self._text += piece

    def _end(self) -> None:
        name = self._entry.name
        if name == SUMS:
            self._sums = _sums(bytes(self._text))
            self._models = sum(map(_is_manifest, self._sums))
            self._expected.extend(self._sums)
        elif self._hash.hexdigest() != self._sums[name]:
            raise InvalidArchive(f"{name} is damaged in it")
        elif name not in self._layers:
            self._manifests[ModelName(*name.split("/")[1:])] = bytes(self._text)
            if len(self._manifests) == self._models:
                self._expect_blobs()
        elif self._writer:
            self._writer.seal()
            self._written.append(self._writer)
            self._writer = None

    def _expect_blobs(self) -> None:
        """All manifests are there: see that they need what the archive has, and that there is room for it."""
        for name, raw in self._manifests.items():
            try:
                parts = parse_manifest(raw, name.short).parts
            except CorruptManifest as error:
                raise InvalidArchive(f"the manifest of {name.short} is none") from error
            for layer in parts:
                known = self._layers.setdefault(blob_name(layer.digest), layer)
                if known.size != layer.size:
                    raise InvalidArchive(f"its manifests do not agree on the size of {layer.digest}")
        listed = {name for name in self._sums if not _is_manifest(name)}
        if odd := sorted(listed ^ self._layers.keys()):
            raise InvalidArchive(f"its manifests and SHA256SUMS do not agree on {odd[0]}")
        self.digests = {layer.digest for layer in self._layers.values()}
        self._store.protect(self)
        self._store.space.require(sum(layer.size for layer in self._layers.values() if not self._has(layer)))

    def _has(self, layer: Layer) -> bool:
        """Whether the blob is there already; one of another length is damaged, and is replaced."""
        path = self._store.blobs.path(layer.digest)
        return path.is_file() and path.stat().st_size == layer.size


def _is_manifest(name: str) -> bool:
    return name.startswith("manifests/")


def _sums(text: bytes) -> dict[str, str]:
    """The digests of SHA256SUMS by name, in its order; raises InvalidArchive unless it is one of an export."""
    sums: dict[str, str] = {}
    models: set[str] = set()
    manifests = 0
    for digest, name in _lines(text):
        if name in sums or not set(digest) <= set("0123456789abcdef") or len(digest) != 64:
            raise InvalidArchive("its SHA256SUMS has a line that is none, or one twice")
        if _is_manifest(name):
            if manifests != len(sums):
                raise InvalidArchive("its manifests do not come first")
            manifests += 1
            models.add(_model_name(name).full.lower())
        elif name != f"blobs/sha256-{digest}":
            raise InvalidArchive(f"{name[:400]!r} is no place in a store")
        sums[name] = digest
    if not models or len(models) != manifests:
        raise InvalidArchive("it has no models, or two whose names differ in case alone")
    return sums


def _lines(text: bytes) -> Iterator[tuple[str, str]]:
    try:
        lines = text.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidArchive("its SHA256SUMS is not ASCII") from error
    for line in lines:
        digest, _, name = line.partition("  ")
        yield digest, name


def _model_name(path: str) -> ModelName:
    parts = path.split("/")[1:]
    try:
        return ModelName(*parts)
    except (InvalidName, TypeError) as error:
        raise InvalidArchive(f"{path[:400]!r} is no place in a store") from error
