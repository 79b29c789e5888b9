"""Shared beginnings of prompts on disk: a system prompt that many begin with is warm after a power cut.

Only what is certainly worth the wear of a memory card is written: a beginning at which prompts have parted twice, so
that a third one still began with it (`Pins`). It is written at that moment, once, by a thread of its own, since no
later moment is safe from a power cut; requests go on meanwhile. What a conversation adds for itself is never written.

A file is a snapshot of one beginning: preamble, JSON header, keys and values as they lie in the cache. It appears
whole or not at all (temporary file, fsync, rename). Loading a model reads the headers alone; keys and values are
read, checked and copied into a slot when a prompt asks for them. (Not mapped: where a memory card fails, reading ends
in an error and a mapping in the end of the process.) What does not belong to this very bundle,
graph, ONNX Runtime and processor is removed, since the bits depend on all of them; so is what is damaged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import struct
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from appliance.bundle import BATCH, DESCRIPTION, MODEL, PREFIXES, WEIGHTS
from appliance.engine.backend import SavedPrefix
from appliance.engine.slots import common_prefix
from appliance.errors import NotEnoughDisk
from appliance.store.disk import Space, sync_folder

log = logging.getLogger(__name__)

SUFFIX = ".prefix"
PARTIAL = ".partial"
FORMAT_VERSION = 1
PREAMBLE = struct.Struct("<8sIII")  # magic, format version, bytes of the header, CRC-32 of the header
MAGIC = b"EAPREFIX"
HEADER_BYTES = 512  # at most, with the preamble and without the tokens
HEADER_BYTES_PER_TOKEN = 12  # at most, in JSON
MIN_PINNED_TOKENS = 64
"""A shorter beginning is read in 50 ms (SmolLM2-135M, two threads), which no one notices after a start."""
REMEMBERED_PARTINGS = 32


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """A beginning on disk: its tokens, and where its keys and values lie. `crc` is their CRC-32."""

    path: Path
    tokens: tuple[int, ...]
    dtype: str
    shape: tuple[int, ...]
    offset: int
    crc: int

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return self.offset + int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


class Damaged(Exception):
    """A snapshot that cannot be used; says why."""


class Pins:
    """Finds the beginnings that several prompts share, by the places where they part."""

    def __init__(self) -> None:
        self._partings: deque[tuple[int, ...]] = deque(maxlen=REMEMBERED_PARTINGS)

    def parted(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """A prompt parted from an earlier one after `tokens`; returns what is now known to be shared, or nothing.

        That is what two partings have in common: two prompts that begin with the same word after their system
        prompt part a little late.
        """
        longest = max((common_prefix(past, tokens, len(tokens)) for past in self._partings), default=0)
        self._partings.append(tokens)
        return tokens[:longest] if longest >= MIN_PINNED_TOKENS else ()


class SnapshotFolder:
    """The snapshots of one bundle, never more than `limit_bytes` of files; `floor` bytes of the disk are left free.

    Read by the engine's thread, written by one of its own; `snapshots` is replaced, never changed.
    """

    def __init__(self, bundle: Path, provider: str, limit_bytes: int, floor: int = 0) -> None:
        self.limit_bytes = limit_bytes
        self._space = Space(bundle, floor)
        self._folder = bundle / PREFIXES
        self._fingerprint = fingerprint(bundle, provider)
        self._written: set[tuple[int, ...]] = set()
        self._writing = False
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapshots")
        self.snapshots: tuple[Snapshot, ...] = ()  # least recently used first
        with contextlib.suppress(FileNotFoundError):
            self.snapshots = tuple(self._read_all())
        self._evict(0)
        if self.snapshots:
            log.info("%d beginnings of prompts are on disk", len(self.snapshots))

    def fitting(self, bytes_per_token: int) -> int:
        """The most tokens that a snapshot may have to stay within the limit by itself."""
        return max(0, (self.limit_bytes - HEADER_BYTES) // (bytes_per_token + HEADER_BYTES_PER_TOKEN))

    def holds(self, tokens: tuple[int, ...]) -> bool:
        """Whether a snapshot begins with `tokens`."""
        return any(snapshot.tokens[: len(tokens)] == tokens for snapshot in self.snapshots)

    def wants(self, tokens: tuple[int, ...]) -> bool:
        """Whether `write` would write this beginning: each once, and one at a time, so that little waits in memory."""
        return not (self._writing or tokens in self._written or self.holds(tokens))

    def write(self, tokens: tuple[int, ...], saved: SavedPrefix) -> None:
        """Write a beginning and its keys and values, in the background. Failure is logged and leaves nothing."""
        self._writing = True
        self._written.add(tokens)
        self._submit(self._write, tokens, saved)

    def load(self, snapshot: Snapshot) -> SavedPrefix | None:
        """The keys and values; None if they turn out to be damaged, and the snapshot will be forgotten."""
        try:
            data = np.fromfile(snapshot.path, np.dtype(snapshot.dtype), offset=snapshot.offset)
            if zlib.crc32(data.data) != snapshot.crc:
                raise Damaged("its contents are not what was written")
            saved: SavedPrefix = data.reshape(snapshot.shape)
        except (OSError, ValueError, Damaged) as error:
            self._submit(self._forget, snapshot, str(error))
            return None
        self._submit(self._touch, snapshot)
        return saved

    def close(self) -> None:
        """Wait for what is being written."""
        self._writer.shutdown()

    def _submit(self, work: Callable[..., None], *arguments: Any) -> None:
        def logged() -> None:
            try:
                work(*arguments)
            except (OSError, NotEnoughDisk) as error:
                log.warning("the beginning of a prompt could not be kept on disk: %s", error)
            except Exception:
                log.exception("the beginning of a prompt could not be kept on disk")

        self._writer.submit(logged)

    def _write(self, tokens: tuple[int, ...], saved: SavedPrefix) -> None:
        try:
            self._write_file(tokens, saved)
        finally:
            self._writing = False

    def _write_file(self, tokens: tuple[int, ...], saved: SavedPrefix) -> None:
        data = np.ascontiguousarray(saved).data.cast("B")
        crc = zlib.crc32(data)
        name = hashlib.sha256(np.array(tokens, np.int64).tobytes()).hexdigest()[:32]
        header = {
            "fingerprint": self._fingerprint,
            "tokens": tokens,
            "dtype": saved.dtype.str,
            "shape": saved.shape,
            "crc": crc,
        }
        text = json.dumps(header).encode()
        offset = PREAMBLE.size + len(text)
        snapshot = Snapshot(self._folder / f"{name}{SUFFIX}", tokens, saved.dtype.str, saved.shape, offset, crc)
        self._space.require(snapshot.nbytes)
        self._evict(snapshot.nbytes)
        self._folder.mkdir(mode=0o700, exist_ok=True)  # not its parents: a bundle that was deleted stays so
        partial = snapshot.path.with_suffix(PARTIAL)
        try:
            with open(os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
                file.write(PREAMBLE.pack(MAGIC, FORMAT_VERSION, len(text), zlib.crc32(text)) + text)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(snapshot.path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(self._folder)
        contained = [other for other in self.snapshots if tokens[: len(other.tokens)] == other.tokens]
        self.snapshots = (*self.snapshots, snapshot)
        for other in contained:
            self._remove(other)
        log.info("wrote the first %d tokens that prompts share: %d bytes", len(tokens), snapshot.nbytes)

    def _read_all(self) -> list[Snapshot]:
        found = []
        for path in sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
            try:
                found.append(read(path, self._fingerprint))
            except (OSError, Damaged) as error:
                log.warning("removed %s, a beginning of a prompt that cannot be used: %s", path.name, error)
                _delete(path)
        return found

    def _evict(self, needed: int) -> None:
        """Remove the least recently used snapshots until `needed` bytes fit."""
        while self.snapshots and sum(each.nbytes for each in self.snapshots) + needed > self.limit_bytes:
            self._remove(self.snapshots[0])

    def _remove(self, snapshot: Snapshot) -> None:
        self.snapshots = tuple(other for other in self.snapshots if other is not snapshot)
        snapshot.path.unlink(missing_ok=True)

    def _forget(self, snapshot: Snapshot, reason: str) -> None:
        log.warning("removed %s, a beginning of a prompt that cannot be used: %s", snapshot.path.name, reason)
        self._remove(snapshot)

    def _touch(self, snapshot: Snapshot) -> None:
        """Make the snapshot the most recently used, after the next start too."""
        if snapshot in self.snapshots:
            self.snapshots = (*(other for other in self.snapshots if other is not snapshot), snapshot)
            os.utime(snapshot.path)


def open_folder(bundle: Path, provider: str, limit_bytes: int, floor: int = 0) -> SnapshotFolder | None:
    """The snapshots of the bundle in this folder. None for a limit of 0, and then nothing of them stays on disk."""
    if limit_bytes:
        try:
            return SnapshotFolder(bundle, provider, limit_bytes, floor)
        except OSError as error:
            log.warning("beginnings of prompts cannot be kept on disk: %s", error)
            return None
    if (bundle / PREFIXES).exists():
        log.info("removed the beginnings of prompts on disk: they are to be kept no more")
        _delete(bundle / PREFIXES)
    return None


def read(path: Path, expected: str) -> Snapshot:
    """The snapshot in a file, without its keys and values. Raises Damaged, also for another bundle's; OSError."""
    if path.suffix != SUFFIX:
        raise Damaged("it was not finished" if path.suffix == PARTIAL else "it is something else")
    with path.open("rb") as file:
        preamble = file.read(PREAMBLE.size)
        if len(preamble) < PREAMBLE.size or not preamble.startswith(MAGIC):
            raise Damaged("it is no snapshot")
        _, version, length, crc = PREAMBLE.unpack(preamble)
        if version != FORMAT_VERSION:
            raise Damaged(f"its format {version} is not {FORMAT_VERSION}")
        text = file.read(min(length, path.stat().st_size))
    if len(text) != length or zlib.crc32(text) != crc:
        raise Damaged("its header is damaged")
    header = json.loads(text)
    if header["fingerprint"] != expected:
        raise Damaged("it was made by another bundle, ONNX Runtime or processor")
    offset = PREAMBLE.size + length
    snapshot = Snapshot(path, tuple(header["tokens"]), header["dtype"], tuple(header["shape"]), offset, header["crc"])
    if path.stat().st_size != snapshot.nbytes:
        raise Damaged(f"it has {path.stat().st_size} bytes instead of {snapshot.nbytes}")
    return snapshot


def fingerprint(bundle: Path, provider: str) -> str:
    """A hex digest of all that the bits of keys and values depend on.

    The weights are named by their size and time, which costs nothing; bundle.json says what they were made of.
    """
    digest = hashlib.sha256()
    for name in (DESCRIPTION, MODEL, BATCH):
        data = (bundle / name).read_bytes() if (bundle / name).exists() else b""
        digest.update(hashlib.sha256(data).digest())
    weights = (bundle / WEIGHTS).stat()
    facts = (weights.st_size, weights.st_mtime_ns, ort.__version__, provider, platform.machine(), _processor())
    digest.update(repr(facts).encode())
    return digest.hexdigest()


def _processor() -> str:
    """What decides which kernels run, as far as the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    first = text.split("\n\n")[0]
    return "\n".join(re.findall(r"^(?:model name|flags|Features|CPU part)\s*:.*$", first, re.MULTILINE))


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
