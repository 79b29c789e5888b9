"""A model between its assembly and its commit."""

from __future__ import annotations

import gc
import shutil

import pytest

from appliance.core import CreateRequest
from appliance.errors import (
    BlobNotFound,
    NotEnoughDisk,
)
from appliance.store.create import commit
from appliance.store.store import Store
from tests.store.conftest import add_file
from tests.store.creating import Create, MakeGGUF, draft_of, files_in, kinds


def test_nothing_is_written_before_commit(store: Store, create: Create, make_gguf: MakeGGUF) -> None:
    create("old")
    digest = add_file(store, make_gguf(llama__block_count=7))
    before = files_in(store.root)
    draft = draft_of(store, CreateRequest("new", files={"m.gguf": digest}, system="secret", template="t"))
    assert draft.network.digest == digest
    assert files_in(store.root) == before
    steps = commit(store, draft)
    while next(steps).status != "writing manifest":
        assert [model.name.short for model in store.list()] == ["old:latest"]
    assert [progress.status for progress in steps] == ["success"]
    assert store.model("new").system == "secret"


def test_a_draft_keeps_its_blobs(store: Store, create: Create) -> None:
    create("base", system="x")
    draft = draft_of(store, CreateRequest("child", source="base", template="t"))
    store.delete("base")
    store.prune()
    list(commit(store, draft))
    assert store.model("child").system == "x"
    store.delete("child")  # the draft is still here, but done
    assert list(store.blobs.digests()) == []


def test_a_dropped_draft_s_blobs_are_pruned(store: Store, create: Create, make_gguf: MakeGGUF) -> None:
    create("keep")
    digest = add_file(store, make_gguf(llama__block_count=7))
    draft = draft_of(store, CreateRequest("child", files={"m.gguf": digest}, system="y"))
    steps = commit(store, draft)
    next(steps), next(steps)
    steps.close()
    del draft, steps
    gc.collect()
    store.prune()
    assert set(store.blobs.digests()) == store.model("keep").manifest.digests


def test_a_blob_that_vanished(store: Store, create: Create) -> None:
    create("base")
    draft = draft_of(store, CreateRequest("base", source="base", system="x"))
    store.blobs.remove(draft.network.digest)
    with pytest.raises(BlobNotFound):
        list(commit(store, draft))
    assert "system" not in kinds(store, "base")


def test_a_full_disk_changes_nothing(store: Store, create: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    create("m", system="old")
    draft = draft_of(store, CreateRequest("m", source="m", system="new"))
    usage = shutil.disk_usage(store.root)._replace(free=2)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(NotEnoughDisk):
        list(commit(store, draft))
    monkeypatch.undo()
    assert store.model("m").system == "old"
    assert not list(store.root.rglob("*.partial-*"))
