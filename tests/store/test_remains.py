"""What processes that died left in a store."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from appliance.store.store import Store
from tests.store.conftest import age

Create = Callable[..., list[str]]


def dead_process() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def leave_rubbish(store: Store, pid: int) -> list[Path]:
    folder = store.root / "onnx" / ("a" * 64)
    rubbish = [
        store.root / "blobs" / f"upload-1.partial-{pid}",
        store.root / "manifests" / f"2.partial-{pid}",
        folder / f"exact.partial-{pid}",
    ]
    for path in rubbish[:2]:
        path.write_bytes(b"x")
    rubbish[2].mkdir(parents=True)
    (rubbish[2] / "model.onnx").write_bytes(b"x")
    return rubbish


def test_opening_clears_what_dead_processes_left(store: Store, create: Create) -> None:
    create("m")
    kept = store.model("m").bundle_path("exact")
    kept.mkdir(parents=True)
    rubbish = leave_rubbish(store, dead_process())
    orphan = store.root / "blobs" / f"sha256-{'1' * 64}"
    orphan.write_bytes(b"x")
    (store.manifests.folder / "h/n/empty").mkdir(parents=True)
    stale = store.root / "blobs" / f"sha256-{'2' * 64}-partial"
    fresh = store.root / "blobs" / f"sha256-{'3' * 64}-partial-0"
    temporary = store.root / "blobs" / "sha256-1234567"
    for path in (stale, fresh, temporary):
        path.write_bytes(b"x")
    age(stale, 3700)
    age(temporary, 3700)

    Store(store.root, noprune=True)
    assert all(path.exists() for path in (*rubbish, orphan, stale, fresh, temporary))
    again = Store(store.root)
    assert not any(path.exists() for path in (*rubbish, rubbish[2].parent, orphan, stale, temporary))
    assert fresh.exists()
    assert kept.exists()
    assert [model.name.short for model in again.list()] == ["m:latest"]
    assert not (store.manifests.folder / "h").exists()


def test_what_a_living_process_writes_is_left(store: Store) -> None:
    with store.blobs.writer() as writer:
        writer.write(b"half")
        rubbish = leave_rubbish(store, os.getpid())
        Store(store.root)
        assert all(path.exists() for path in rubbish[:2])
        digest = writer.commit()
    assert store.blobs.read(digest) == b"half"


def test_a_process_number_given_anew_is_not_the_writer(store: Store) -> None:
    rubbish = leave_rubbish(store, os.getpid())
    for path in rubbish:
        age(path, 10 * 365 * 86400)
    Store(store.root)
    assert not any(path.exists() for path in rubbish)
