"""Folders that appear whole or not at all: they grow as FOLDER.partial-<pid> and are renamed when all is on disk."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from appliance.bundle import CHECKSUMS
from appliance.errors import ConversionFailed
from appliance.store.disk import Space


@contextlib.contextmanager
def whole_or_not(folder: Path, size: int, floor: int = 0) -> Iterator[Path]:
    """A folder to write `size` bytes into, which becomes `folder` at the end. After an error nothing stays.

    Raises ConversionFailed if `folder` exists, NotEnoughDisk if less than `floor` bytes would stay free. Partial
    folders of dead runs are removed.
    """
    if folder.exists():
        raise ConversionFailed("the bundle's folder exists already")
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_dead_partials(folder)
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    with Space(folder.parent, floor).writing(size):
        partial.mkdir()
        try:
            yield partial
            write_checksums(partial)
            for path in partial.iterdir():
                _sync(path)
            _sync(partial)
            partial.rename(folder)
            _sync(folder.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def write_checksums(folder: Path) -> None:
    """Note the digests of all files, in the form of sha256sum."""
    lines = []
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(folder).as_posix()}\n")
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def _remove_dead_partials(folder: Path) -> None:
    """Clear away what runs for the same folder left when they were killed."""
    for partial in folder.parent.glob(f"{glob.escape(folder.name)}.partial-*"):
        pid = partial.name.rpartition("-")[2]
        if pid.isdecimal() and not _alive(int(pid)):
            shutil.rmtree(partial, ignore_errors=True)


def _alive(pid: int) -> bool:
    """Whether another process has this id. One with our own is gone: a container hands out the same ids again."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
