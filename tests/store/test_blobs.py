"""Blobs: digests, writing, full disks, links, old names."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from appliance.errors import BlobNotFound, DigestMismatch, InvalidRequest, NotEnoughDisk
from appliance.store.blobs import Blobs

DATA = b"some bytes" * 1000
HEX = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


def files(blobs: Blobs) -> list[str]:
    return sorted(entry.name for entry in blobs.folder.iterdir())


def test_a_blob_appears_when_it_is_committed(blobs: Blobs) -> None:
    with blobs.writer(f"sha256:{HEX}", length=len(DATA)) as writer:
        for start in range(0, len(DATA), 777):
            writer.write(DATA[start : start + 777])
        assert not blobs.has(f"sha256:{HEX}")
        assert list(blobs.digests()) == []
        assert writer.commit() == f"sha256:{HEX}"
    assert files(blobs) == [f"sha256-{HEX}"]
    assert blobs.read(f"sha256:{HEX}") == DATA
    assert blobs.has(f"sha256-{HEX}")
    assert list(blobs.digests()) == [f"sha256:{HEX}"]


@pytest.mark.parametrize("announced", [f"sha256:{'0' * 64}", f"sha256-{HEX}", f"sha256:{HEX.upper()}"])
def test_a_mismatch_is_kept_under_its_true_digest(blobs: Blobs, announced: str) -> None:
    with blobs.writer(announced) as writer:
        writer.write(DATA)
        with pytest.raises(DigestMismatch) as caught:
            writer.commit()
    assert str(caught.value) == f'digest mismatch, expected "{announced}", got "sha256:{HEX}"'
    assert files(blobs) == [f"sha256-{HEX}"]


def test_what_is_not_committed_is_dropped(blobs: Blobs) -> None:
    with blobs.writer() as writer:
        writer.write(DATA)
    assert files(blobs) == []


@pytest.mark.parametrize(
    "digest",
    ["", "sha256", f"sha256:{HEX[1:]}", f"sha256:{HEX}0", f"sha512:{HEX}", f"sha256:{'g' * 64}", HEX,
     f"sha256:../{HEX[3:]}", f"sha256:{HEX}\n", f"/sha256:{HEX}"],
)  # fmt: skip
def test_digest_syntax(blobs: Blobs, digest: str) -> None:
    for use in (blobs.has, blobs.path, blobs.read, blobs.remove):
        with pytest.raises(InvalidRequest, match=r"^invalid digest format$"):
            use(digest)
    if digest:
        with pytest.raises(InvalidRequest, match=r"^invalid digest format$"):
            blobs.writer(digest)


def test_a_missing_blob(blobs: Blobs) -> None:
    with pytest.raises(BlobNotFound, match=rf'^blob "sha256:{HEX}" not found$'):
        blobs.read(f"sha256:{HEX}")


def test_no_upload_begins_that_cannot_fit(blobs: Blobs) -> None:
    with pytest.raises(NotEnoughDisk) as caught:
        blobs.writer(length=1 << 60)
    assert caught.value.needed == 1 << 60
    assert 0 < caught.value.available < 1 << 60
    assert files(blobs) == []


def test_a_disk_that_fills_up_meanwhile(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with blobs.writer() as writer:
        writer.write(DATA)
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(NotEnoughDisk):
            writer.commit()
    assert files(blobs) == []


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> int:
    """A disk with 100,000 bytes free, less what lies in the folder of blobs."""

    def usage(_: Path) -> SimpleNamespace:
        written = sum(entry.stat().st_size for entry in (tmp_path / "blobs").iterdir())
        return SimpleNamespace(free=100_000 - written)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    return 100_000


def test_a_floor_is_left_free(tmp_path: Path, small_disk: int) -> None:
    blobs = Blobs(tmp_path / "blobs", floor=small_disk - 6000)
    with pytest.raises(NotEnoughDisk, match=r"^not enough disk space: 0.0 MB needed, 0.0 MB available \(besides") as at:
        blobs.writer(length=6001)
    assert (at.value.needed, at.value.available, at.value.floor) == (6001, 6000, small_disk - 6000)
    with blobs.writer(length=6000) as writer:
        writer.write(b"x" * 6000)
        writer.commit()
    with pytest.raises(NotEnoughDisk):
        blobs.add(b"y")
    blobs.remove(next(blobs.digests()))
    assert blobs.add(b"y")


def test_an_upload_of_unknown_length_ends_at_the_floor(tmp_path: Path, small_disk: int) -> None:
    blobs = Blobs(tmp_path / "blobs", floor=small_disk - 6 * len(DATA))
    with blobs.writer() as writer:
        for _ in range(6):
            writer.write(DATA)
        with pytest.raises(NotEnoughDisk):
            writer.write(DATA)
    assert files(blobs) == []


def test_adding_twice(blobs: Blobs) -> None:
    assert blobs.add(DATA) is True
    assert blobs.add(DATA) is False


def test_old_names_are_migrated(blobs: Blobs) -> None:
    (blobs.folder / f"sha256:{HEX}").write_bytes(DATA)
    blobs.migrate()
    assert files(blobs) == [f"sha256-{HEX}"]
