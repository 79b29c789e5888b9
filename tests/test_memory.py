"""Memory that goes back to the system."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from appliance.memory import page_out, page_out_code

PAGES = 256
ALL_KB = PAGES * mmap.PAGESIZE / 1024


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mappings are told and advised so on Linux alone")


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[Callable[[str], tuple[mmap.mmap, bytes]]]:
    """Writes and maps a file below a folder, by its name; all of it is then resident."""
    if filesystem(tmp_path) == "tmpfs":
        pytest.skip("files that live in memory stay there")
    maps: list[mmap.mmap] = []

    def mapped(name: str) -> tuple[mmap.mmap, bytes]:
        path, content = tmp_path / name, os.urandom(PAGES * mmap.PAGESIZE)
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with path.open("rb") as file:
            maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        assert maps[-1][:] == content
        return maps[-1], content

    yield mapped
    for each in maps:
        each.close()


def test_pages_of_a_folder_go_back_and_keep_what_they_held(tmp_path: Path, mapped: Any) -> None:
    inside, content = mapped("bundle/weights")
    mapped("bundle-2/weights")
    inside[: len(b"written")] = b"written"
    page_out(tmp_path / "bundle")
    assert resident_kb(tmp_path / "bundle") < ALL_KB / 2
    assert resident_kb(tmp_path / "bundle-2") == ALL_KB
    assert inside[:] == b"written" + content[len(b"written") :]


def test_pages_of_libraries_go_back(tmp_path: Path, mapped: Any) -> None:
    for name in ("one/library.so.1", "two/module.cpython-311.so", "three.so/table"):
        mapped(name)
    page_out_code()
    assert resident_kb(tmp_path / "one") < ALL_KB / 2
    assert resident_kb(tmp_path / "two") < ALL_KB / 2
    assert resident_kb(tmp_path / "three.so") == ALL_KB


def filesystem(folder: Path) -> str:
    mounts = [part for part in psutil.disk_partitions(all=True) if folder.is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype


def resident_kb(folder: Path) -> float:
    lines = Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines()
    at = next(at for at, line in enumerate(lines) if f"{folder}{os.sep}" in line)
    return next(float(line.split()[1]) for line in lines[at:] if line.startswith("Rss:"))
