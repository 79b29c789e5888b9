"""A process killed at any step of a change leaves a store that opens, whole and tidy.

A child process makes the change and kills itself at the n-th time it opens, creates, renames or removes
something; n runs from the first step to the last.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.core import CreateRequest
from appliance.store.blobs import digest_of
from appliance.store.store import Store
from tests.store.conftest import add_file, run_create, write_gguf

STEPS = frozenset(("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"))
UPLOAD = b"blob" * 5000

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a child must be killed in the middle")


def killed_at(step: int, change: Callable[[Store], object], root: Path) -> bool:
    """Open the store and run `change` in a child that dies at the given step; False if it ended before."""
    child = os.fork()
    if child == 0:
        try:
            left = iter(range(step))

            def count(event: str, arguments: tuple[object, ...]) -> None:
                if event in STEPS and next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(count)
            change(Store(root))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def every_step(start: Path, scratch: Path, change: Callable[[Store], object]) -> Iterator[Path]:
    """Copies of the store `start`, each with the change cut short one step later."""
    for step in range(500):
        root = scratch / str(step)
        shutil.copytree(start, root)
        killed = killed_at(step, change, root)
        yield root
        if not killed:
            assert step > 3  # it was killed in the middle at least a few times
            return
    raise AssertionError("the change has no end")


def state(store: Store) -> dict[str, str]:
    return {model.name.short: model.digest for model in store.list()}


def assert_tidy(store: Store) -> None:
    """Everything listed works, and nothing else is there."""
    for model in store.list():
        assert model.details().system in ("old", "new", "other")
    models = store.list()
    assert set(store.blobs.digests()) == {digest for model in models for digest in model.manifest.digests}
    assert sum(path.is_file() for path in store.blobs.folder.iterdir()) == len(set(store.blobs.digests()))
    assert not list(store.root.rglob("*.partial-*"))
    assert sum(path.is_file() for path in store.manifests.folder.rglob("*")) == len(models)
    bundles = {path.name for path in store.derived.iterdir()}
    assert bundles <= {model.model_digest.removeprefix("sha256:") for model in models}


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A store with two models of different weights, both with a bundle."""
    store = Store(tmp_path / "start")
    for number, name in enumerate(("old", "other")):
        digest = add_file(store, write_gguf(tmp_path / f"{name}.gguf", llama__block_count=number))
        run_create(store, CreateRequest(name, files={"m.gguf": digest}, system=name))
        bundle = store.model(name).bundle_path("exact")
        bundle.mkdir(parents=True)
        (bundle / "model.onnx").write_bytes(b"graph")
        (bundle / "bundle.json").write_bytes(b"{}")
    return store.root


def upload(store: Store) -> None:
    with store.blobs.writer(digest_of(UPLOAD), length=len(UPLOAD)) as writer:
        for start in range(0, len(UPLOAD), 5000):
            writer.write(UPLOAD[start : start + 5000])
            open(os.devnull).close()  # a step to die at between two pieces
        writer.commit()


def test_upload(start: Path, tmp_path: Path) -> None:
    before = state(Store(start))
    seen = set()
    for root in every_step(start, tmp_path / "copies", upload):
        store = Store(root, noprune=True)
        assert state(store) == before
        whole, half = store.blobs.has(digest_of(UPLOAD)), any(root.rglob("*.partial-*"))
        assert not whole or store.blobs.read(digest_of(UPLOAD)) == UPLOAD
        seen.add((whole, half))
        assert_tidy(Store(root))
    assert seen == {(False, False), (False, True), (True, False)}


def replace(store: Store) -> None:
    run_create(store, CreateRequest("old", source="other", system="new"))


def add(store: Store) -> None:
    run_create(store, CreateRequest("host:1/name/space", source="old", system="new", parameters={"seed": 1}))


@pytest.mark.parametrize(
    "change",
    [replace, add, lambda store: store.delete("old"), lambda store: store.copy("other", "old")],
    ids=["replace", "add", "delete", "copy"],
)
def test_a_change_happens_or_does_not(start: Path, tmp_path: Path, change: Callable[[Store], object]) -> None:
    before = state(Store(start))
    shutil.copytree(start, tmp_path / "done")
    done = Store(tmp_path / "done")
    change(done)
    after = state(done)
    assert before != after
    seen = []
    for root in every_step(start, tmp_path / "copies", change):
        store = Store(root)
        assert state(store) in (before, after)
        seen.append(state(store))
        assert_tidy(store)
        assert (store.model("other").bundle_path("exact") / "model.onnx").exists()
    assert seen[0] == before
    assert seen[-1] == after


def test_pruning_can_be_cut_short_too(start: Path, tmp_path: Path) -> None:
    orphans = [start / "blobs" / f"sha256-{digit * 64}" for digit in "123"]
    for orphan in orphans:
        orphan.write_bytes(b"x")
        (start / "onnx" / orphan.name.removeprefix("sha256-") / "exact").mkdir(parents=True)
    (start / "manifests/h/n/m").mkdir(parents=True)
    before = state(Store(start, noprune=True))
    left = set()
    for root in every_step(start, tmp_path / "copies", lambda store: None):
        left.add(sum((root / "blobs" / orphan.name).exists() for orphan in orphans))
        store = Store(root)
        assert state(store) == before
        assert_tidy(store)
    assert left == {0, 1, 2, 3}
