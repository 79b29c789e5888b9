"""Memory that goes back to the system."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import psutil
import pytest

from appliance.memory import page_out

PAGES = 256


@pytest.mark.skipif(sys.platform != "linux", reason="mappings are told and advised so on Linux alone")
def test_pages_of_a_folder_go_back_and_keep_what_they_held(tmp_path: Path) -> None:
    if filesystem(tmp_path) == "tmpfs":
        pytest.skip("files that live in memory stay there")
    inside, outside = tmp_path / "bundle", tmp_path / "bundle-2"
    contents, maps = {}, {}
    for folder in (inside, outside):
        folder.mkdir()
        contents[folder] = os.urandom(PAGES * mmap.PAGESIZE)
        with (folder / "weights").open("wb") as file:
            file.write(contents[folder])
            file.flush()
            os.fsync(file.fileno())
        with (folder / "weights").open("rb") as file:
            maps[folder] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        assert maps[folder][:] == contents[folder]
    maps[inside][: len(b"written")] = b"written"

    page_out(inside)

    assert resident_kb(inside) < PAGES * mmap.PAGESIZE / 1024 / 2
    assert resident_kb(outside) == PAGES * mmap.PAGESIZE / 1024
    assert maps[inside][:] == b"written" + contents[inside][len(b"written") :]
    for mapped in maps.values():
        mapped.close()


def filesystem(folder: Path) -> str:
    mounts = [part for part in psutil.disk_partitions(all=True) if folder.is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype


def resident_kb(folder: Path) -> float:
    lines = Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines()
    at = next(at for at, line in enumerate(lines) if f"{folder}{os.sep}" in line)
    return next(float(line.split()[1]) for line in lines[at:] if line.startswith("Rss:"))
