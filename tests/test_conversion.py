"""The converters' process as the daemon and the command line see it: its errors, its noise, and what it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.conversion import run_converter
from appliance.errors import ConversionFailed, NotEnoughDisk, NotGGUF, TruncatedGGUF
from tests.tiny_model import write_tiny_gguf


def lines_of(source: Path, folder: Path, floor: int = 0) -> list[dict[str, Any]]:
    async def collect() -> list[dict[str, Any]]:
        return [line async for line in run_converter(source, folder, "fp32", "f32", floor=floor)]

    return asyncio.run(collect())


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a shell script in the place of the converters."""

    def run(text: str, floor: int = 0) -> list[dict[str, Any]]:
        fake = tmp_path / "python"
        fake.write_text(f"#!/bin/sh\n{text}\n")
        fake.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(fake))
        return lines_of(tmp_path / "x.gguf", tmp_path / "bundle", floor)

    return run


def test_a_conversion(tmp_path: Path) -> None:
    *progress, last = lines_of(write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "bundle")
    assert progress[-1]["completed"] == progress[-1]["total"]
    assert last["done"] is True


def test_an_error_comes_back_as_its_own_class(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf")
    source.write_bytes(source.read_bytes()[:-1])
    with pytest.raises(TruncatedGGUF, match="cut short"):
        lines_of(source, tmp_path / "bundle")
    source.write_bytes(b"x" * 100)
    with pytest.raises(NotGGUF):
        lines_of(source, tmp_path / "bundle")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exit 3", r"ended unexpectedly \(status 3\)"),
        ("exit 0", r"ended unexpectedly \(status 0\)"),
        ("kill -9 $$", r"ended unexpectedly \(status -9\)"),
        ("echo Segmentation fault; exec sleep 60", "something else than JSON"),
        ("echo 5; exec sleep 60", "something else than JSON"),
        ("exec head -c 1000000 /dev/zero", "something else than JSON"),
        ('echo \'{"error": "broken", "kind": "NoSuchKind"}\'', "broken"),
    ],
)
def test_converters_that_break_down(script, text: str, message: str) -> None:
    with pytest.raises(ConversionFailed, match=message):
        script(text)


def test_the_traceback_of_a_failure_is_logged(script, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConversionFailed):
        script('echo "KeyError: 7" >&2; echo \'{"error": "the converter failed", "kind": "ConversionFailed"}\'; exit 1')
    assert "KeyError: 7" in caplog.text


def test_a_floor_of_free_space_is_kept(tmp_path: Path, script, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the converters, from what they are going to write, and by who runs them, from what is left meanwhile."""
    source, folder = write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "bundle"
    floor = shutil.disk_usage(tmp_path).total
    with pytest.raises(NotEnoughDisk, match="keeps free"):
        lines_of(source, folder, floor=floor)
    assert not list(tmp_path.glob("bundle*"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5))
    with pytest.raises(NotEnoughDisk, match="keeps free") as caught:
        script('echo \'{"status": "s"}\'; exec sleep 60', floor=7)
    assert (caught.value.needed, caught.value.floor) == (2, 7)


def test_closing_ends_the_process_and_removes_its_partial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "python"
    fake.write_text(
        f'#!/bin/sh\nmkdir {tmp_path}/b.partial-$$\necho \'{{"status": "s", "pid": \'$$\'}}\'\nexec sleep 60\n'
    )
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))

    async def begin_and_leave() -> int:
        async with contextlib.aclosing(run_converter(tmp_path / "x.gguf", tmp_path / "b", "fp32", "f32")) as lines:
            line = await anext(lines)
            assert (tmp_path / f"b.partial-{line['pid']}").exists()
            return int(line["pid"])

    pid = asyncio.run(begin_and_leave())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert os.listdir(tmp_path) == ["python"]


def test_killed_half_way_nothing_stays(tmp_path: Path) -> None:
    """As when the system runs out of memory: the real converters, in the middle of writing weights."""
    source = write_tiny_gguf(tmp_path / "m.gguf", layers=24, hidden=512, heads=8, intermediate=1024, tensor_type="Q8_0")
    folder = tmp_path / "out" / "b"

    async def kill_while_it_writes() -> None:
        async with contextlib.aclosing(run_converter(source, folder, "exact", "f32")) as lines:
            async for line in lines:
                for partial in folder.parent.glob("b.partial-*"):
                    assert 0 < line["completed"] < line["total"]
                    os.kill(int(partial.name.rpartition("-")[2]), signal.SIGKILL)

    with pytest.raises(ConversionFailed, match=r"ended unexpectedly \(status -9\)"):
        asyncio.run(kill_while_it_writes())
    assert os.listdir(folder.parent) == []


def test_the_current_folder_provides_no_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "gguf.py").write_text("raise SystemExit('somebody else\\'s module')\n")
    monkeypatch.chdir(tmp_path)
    assert lines_of(source, tmp_path / "bundle")[-1]["done"] is True
