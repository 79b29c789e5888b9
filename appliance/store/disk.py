"""Writes that survive a power cut, and names that tell who is still writing.

What is being written has a name that ends in `.partial-<process id>`; it is renamed when it is whole. So an
entry with such a name whose process is gone is rubbish.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from appliance.errors import NotEnoughDisk

_PARTIAL = re.compile(r"\.partial-([0-9]{1,9})$")
_DOWNLOAD = re.compile(r"sha256-(?![0-9a-fA-F]{64}$).+")
_CLOCK_SLACK_S = 1.0  # process start times are coarser than file times


@dataclass(frozen=True, slots=True)
class Space:
    """The room on the file system of `folder`, down to a floor in bytes that is always left free."""

    folder: Path
    floor: int = 0

    @property
    def left(self) -> int:
        """Bytes that may still be written; negative when the floor is crossed already."""
        return shutil.disk_usage(self.folder).free - self.floor

    def require(self, needed: int) -> None:
        """Raise NotEnoughDisk unless `needed` bytes may be written."""
        if needed > (left := max(self.left, 0)):
            raise NotEnoughDisk(needed, left, self.floor)

    @contextlib.contextmanager
    def writing(self, needed: int) -> Iterator[None]:
        """Require room for `needed` bytes, and turn the system's "no space left" into NotEnoughDisk too."""
        self.require(needed)
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise NotEnoughDisk(needed, max(self.left, 0), self.floor) from error


def partial_path(folder: Path, stem: str) -> Path:
    """A fresh name in `folder` for something this process writes."""
    return folder / f"{stem}{secrets.token_hex(8)}.partial-{os.getpid()}"


def is_partial(path: Path) -> bool:
    """Whether this is something in the making: what some process writes or wrote, or a download, ours or Ollama's."""
    return bool(_PARTIAL.search(path.name)) or is_download(path)


def is_download(path: Path) -> bool:
    """Whether this is part of a blob that is not all there, or a note of what is."""
    return bool(_DOWNLOAD.fullmatch(path.name))


def abandoned(path: Path) -> bool:
    """Whether `path` is a partial whose writer is gone.

    A process that started after the entry was last touched only inherited the number: in a container the
    daemon is process 1 every time.
    """
    match = _PARTIAL.search(path.name)
    if not match:
        return False
    try:
        writer = psutil.Process(int(match[1]))
        if writer.status() == psutil.STATUS_ZOMBIE:
            return True
        return bool(writer.create_time() > path.lstat().st_mtime + _CLOCK_SLACK_S)
    except psutil.NoSuchProcess:
        return True
    except (psutil.AccessDenied, FileNotFoundError):
        return False


def sync_folder(folder: Path) -> None:
    """Make the entries of `folder` durable."""
    if os.name == "nt":  # directories cannot be flushed there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folders(folder: Path) -> None:
    """Create `folder` and its parents, durably."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        sync_folder(new.parent)


def write_atomic(path: Path, data: bytes, space: Space) -> None:
    """Put `data` at `path`, wholly or not at all; it grows in the folder of `space`, on the same disk."""
    space.require(len(data))
    make_folders(path.parent)
    partial = partial_path(space.folder, "")
    try:
        with space.writing(len(data)), partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def remove_tree(folder: Path) -> None:
    """Remove a folder or a link to one; nothing outside it is touched. It vanishes at once, then is emptied."""
    doomed = partial_path(folder.parent, f"{folder.name}-removed-")
    with contextlib.suppress(FileNotFoundError):
        os.replace(folder, doomed)
        if doomed.is_symlink() or doomed.is_file():
            doomed.unlink()
        else:
            shutil.rmtree(doomed)
