"""Shared beginnings on disk: there after a power cut, whole or not at all, and never another bundle's."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.bundle import PREFIXES
from appliance.core import Usage
from appliance.engine import snapshot
from appliance.engine.engine import Engine
from appliance.engine.snapshot import MIN_PINNED_TOKENS, SnapshotFolder, open_folder
from tests.engine.conftest import Client
from tests.engine.fakes import ScriptedBackend
from tests.engine.test_prefix import digest

Start = Callable[..., Engine]
SYSTEM = "You answer in rhymes, never at length, and only what you were asked. "
OTHER = "You are a pirate. You speak like one, whatever they say to you, always. "
LIMIT = 10**6


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """What the fingerprint is taken of."""
    for name in ("bundle.json", "model.onnx", "model.onnx.data"):
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.fixture
def load(start: Start, bundle: Path) -> Callable[..., tuple[Engine, ScriptedBackend]]:
    """An engine on the bundle, as the manager makes it."""

    def make(limit: int = LIMIT) -> tuple[Engine, ScriptedBackend]:
        backend = ScriptedBackend(digest, slots=2, capacity=256)
        return start(backend, snapshots=open_folder(bundle, "CPU", limit)), backend

    return make


Load = Callable[..., tuple[Engine, ScriptedBackend]]


def ask(engine: Engine, prompt: str) -> Usage:
    usage = Client(engine, prompt, num_ctx=256, num_predict=2).chunks()[-1].usage
    assert usage is not None
    return usage


def files(bundle: Path) -> list[Path]:
    return sorted((bundle / PREFIXES).glob("*"))


def written(bundle: Path, tokens: int, limit: int = LIMIT, start: int = 0) -> SnapshotFolder:
    """A folder with one more snapshot in it."""
    folder = SnapshotFolder(bundle, "CPU", limit)
    add(folder, tokens, start)
    return folder


def add(folder: SnapshotFolder, tokens: int, start: int = 0) -> None:
    ids = tuple(range(start, start + tokens))
    folder.write(ids, np.arange(start, start + tokens, dtype=np.float32).reshape(1, 1, tokens, 1))
    folder._writer.submit(lambda: None).result()


def test_a_system_prompt_is_warm_after_a_restart(load: Load, bundle: Path) -> None:
    engine, _ = load()
    for name in ("Ann?", "Bob?", "Cid?"):
        ask(engine, SYSTEM + name)
    engine.close()
    assert [path.suffix for path in files(bundle)] == [".prefix"]
    again, backend = load()
    found = ask(again, SYSTEM + "Dee?")
    assert found.cached_tokens == len(SYSTEM)
    assert backend.restores == [(0, len(SYSTEM))]
    plain, _ = load(0)
    assert Client(again, SYSTEM + "Eve?", num_ctx=256).text() == Client(plain, SYSTEM + "Eve?", num_ctx=256).text()


def test_it_is_on_disk_before_the_model_unloads(load: Load, bundle: Path) -> None:
    """A power cut gives no notice: what the third prompt shared is written while the engine goes on."""
    engine, _ = load()
    for name in ("Ann?", "Bob?", "Cid?"):
        ask(engine, SYSTEM + name)
    folder = engine._prefixes._snapshots
    assert folder is not None
    folder._writer.submit(lambda: None).result()  # the one write, and no close
    assert engine.alive
    again, _ = load()
    assert ask(again, SYSTEM + "Dee?").cached_tokens == len(SYSTEM)


def test_what_one_conversation_adds_is_not_written(load: Load, bundle: Path) -> None:
    engine, _ = load()
    prompt = SYSTEM
    for turn in range(4):
        prompt += Client(engine, prompt, num_ctx=256, num_predict=20).text() + f" and {turn}? "
    engine.close()
    assert files(bundle) == []


def test_two_prompts_are_not_yet_many(load: Load, bundle: Path) -> None:
    engine, _ = load()
    for name in ("Ann?", "Bob?"):
        ask(engine, SYSTEM + name)
    engine.close()
    assert files(bundle) == []


def test_questions_that_begin_alike_do_not_lengthen_the_system_prompt(load: Load, bundle: Path) -> None:
    engine, _ = load()
    for question in ("What is it?", "What was it?", "Who is it?", "When was it?"):
        ask(engine, SYSTEM + question)
    engine.close()
    assert [len(each.tokens) for each in SnapshotFolder(bundle, "CPU", LIMIT).snapshots] == [len(SYSTEM + "Wh")]


def test_each_is_written_once(load: Load, bundle: Path) -> None:
    engine, _ = load()
    for name in ("Ann?", "Bob?", "Cid?"):
        ask(engine, SYSTEM + name)
    engine.close()
    before = [path.stat().st_ino for path in files(bundle)]
    again, _ = load()
    for name in ("Dee?", "Eve?", "Fay?", "Gus?"):
        ask(again, SYSTEM + name)
    again.close()
    assert [path.stat().st_ino for path in files(bundle)] == before


def test_a_folder_that_is_full_forgets_the_least_recently_used(bundle: Path) -> None:
    size = 1300  # one takes some 1,000 to 1,200 bytes
    folder = written(bundle, 100, limit=2 * size)
    add(folder, 100, start=1000)
    assert folder.load(folder.snapshots[0]) is not None
    add(folder, 100, start=2000)
    folder.close()
    assert [each.tokens[0] for each in folder.snapshots] == [0, 2000]
    assert sum(path.stat().st_size for path in files(bundle)) <= 2 * size
    again = SnapshotFolder(bundle, "CPU", size)
    assert [each.tokens[0] for each in again.snapshots] == [2000], "a lower limit counts at the next load"
    assert len(files(bundle)) == 1


def test_a_disk_at_its_floor_gets_no_snapshots(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = SnapshotFolder(bundle, "CPU", LIMIT, floor=shutil.disk_usage(bundle).total)
    add(folder, 100)
    folder.close()
    assert folder.snapshots == ()
    assert files(bundle) == []
    assert "not enough disk space" in caplog.text


def test_a_longer_beginning_replaces_the_shorter_one_it_contains(bundle: Path) -> None:
    folder = written(bundle, 100)
    add(folder, 200)
    assert [len(each.tokens) for each in folder.snapshots] == [200]
    assert len(files(bundle)) == 1
    assert not folder.wants(tuple(range(100)))


def test_a_beginning_too_long_for_the_limit_is_cut(load: Load, bundle: Path) -> None:
    limit = snapshot.HEADER_BYTES + (MIN_PINNED_TOKENS + 1) * (4 + snapshot.HEADER_BYTES_PER_TOKEN)
    engine, _ = load(limit)
    for name in ("Ann?", "Bob?", "Cid?"):
        ask(engine, SYSTEM + name)
    engine.close()
    (path,) = files(bundle)
    assert path.stat().st_size <= limit
    assert ask(load(limit)[0], SYSTEM + "Dee?").cached_tokens == MIN_PINNED_TOKENS + 1


def test_the_setting_off_removes_what_is_there(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    written(bundle, 100).close()
    assert open_folder(bundle, "CPU", 0) is None
    assert not (bundle / PREFIXES).exists()
    assert "kept no more" in caplog.text


def damage_end(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def damage_tokens(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[snapshot.PREAMBLE.size + 100] ^= 1
    path.write_bytes(data)


def newer(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[8] = snapshot.FORMAT_VERSION + 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: os.truncate(path, path.stat().st_size - 1), "bytes instead of"),
        (lambda path: os.truncate(path, 10), "no snapshot"),
        (lambda path: os.truncate(path, snapshot.PREAMBLE.size + 5), "header is damaged"),
        (lambda path: path.write_bytes(b""), "no snapshot"),
        (lambda path: path.write_bytes(b"x" * 10_000), "no snapshot"),
        (damage_tokens, "header is damaged"),
        (newer, "format 2 is not 1"),
        (lambda path: path.rename(path.with_suffix(".partial")), "not finished"),
        (lambda path: path.rename(path.with_suffix(".txt")), "something else"),
    ],
)
def test_what_cannot_be_used_is_removed_with_one_line(
    bundle: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], Any], reason: str
) -> None:
    written(bundle, 100).close()
    (path,) = files(bundle)
    harm(path)
    assert SnapshotFolder(bundle, "CPU", LIMIT).snapshots == ()
    assert files(bundle) == []
    (line,) = [record.getMessage() for record in caplog.records]
    assert reason in line


def test_damaged_keys_and_values_are_found_before_they_are_used(
    load: Load, bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine, _ = load()
    for name in ("Ann?", "Bob?", "Cid?"):
        ask(engine, SYSTEM + name)
    engine.close()
    damage_end(files(bundle)[0])
    again, backend = load()
    assert ask(again, SYSTEM + "Dee?").cached_tokens == 0
    assert backend.restores == []
    again.close()
    assert files(bundle) == []
    assert "not what was written" in caplog.text


@pytest.mark.parametrize("changed", ["bundle.json", "model.onnx", "model.onnx.data", "batch.onnx"])
def test_another_bundles_snapshots_are_not_used(bundle: Path, changed: str, caplog: pytest.LogCaptureFixture) -> None:
    written(bundle, 100).close()
    (bundle / changed).write_text("another")
    assert SnapshotFolder(bundle, "CPU", LIMIT).snapshots == ()
    assert files(bundle) == []
    assert "another bundle" in caplog.text


def test_another_runtime_or_provider_has_other_bits(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(bundle, 100).close()
    monkeypatch.setattr(snapshot.ort, "__version__", "9.9")
    assert SnapshotFolder(bundle, "CPU", LIMIT).snapshots == ()
    monkeypatch.undo()
    written(bundle, 100).close()
    assert SnapshotFolder(bundle, "DirectML", LIMIT).snapshots == ()


def test_a_full_disk_leaves_nothing(
    load: Load, bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(snapshot.os, "fsync", full)
    engine, _ = load()
    for name in ("Ann?", "Bob?", "Cid?", "Dee?"):
        ask(engine, SYSTEM + name)
    engine.close()
    assert files(bundle) == []
    assert "No space left on device" in caplog.text


def test_a_full_disk_leaves_the_shorter_beginning(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = written(bundle, 100)
    monkeypatch.setattr(snapshot.os, "fsync", full)
    add(folder, 200)
    folder.close()
    assert [len(each.tokens) for each in folder.snapshots] == [100]
    assert [each.tokens for each in SnapshotFolder(bundle, "CPU", LIMIT).snapshots] == [tuple(range(100))]


def test_a_bundle_that_was_deleted_stays_so(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = SnapshotFolder(bundle, "CPU", LIMIT)
    for path in bundle.iterdir():
        path.unlink()
    bundle.rmdir()
    add(folder, 100)
    folder.close()
    assert not bundle.exists()
    assert "could not be kept on disk" in caplog.text


def test_files_are_for_the_owner_alone(bundle: Path) -> None:
    written(bundle, 100).close()
    assert (bundle / PREFIXES).stat().st_mode & 0o777 == 0o700
    assert files(bundle)[0].stat().st_mode & 0o777 == 0o600
