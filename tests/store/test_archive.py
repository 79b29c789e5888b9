"""Models as one file: packed, listed by other programs, unpacked, damaged in every way."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.errors import (
    ApplianceError,
    BlobNotFound,
    InvalidArchive,
    InvalidRequest,
    ModelFileError,
    ModelNotFound,
    NotEnoughDisk,
)
from appliance.store.packing import Packing
from appliance.store.store import Store
from appliance.store.unpacking import Unpacking

Create = Callable[..., list[str]]
Files = dict[str, bytes]


def packed(store: Store, *models: str) -> bytes:
    packing = Packing(store, models)
    data = b"".join(packing.chunks())
    assert len(data) == packing.size
    return data


def unpack(store: Store, data: bytes, piece: int = 1000) -> list[str]:
    unpacking = Unpacking(store)
    try:
        for start in range(0, len(data), piece):
            unpacking.write(data[start : start + piece])
        return list(unpacking.commit())
    finally:
        unpacking.abort()


def contents(store: Store) -> set[str]:
    return {path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file()}


def files_of(archive: bytes) -> Files:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def summed(files: Iterable[tuple[str, bytes]]) -> bytes:
    return "".join(f"{sha256(data).hexdigest()}  {name}\n" for name, data in files).encode()


def tar_of(files: Iterable[tuple[str | tarfile.TarInfo, bytes]], sums: bytes | None = None) -> bytes:
    """An archive with any entries behind its sums, which are right unless given."""
    files = list(files)
    plain = [(name, data) for name, data in files if isinstance(name, str)]
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, data in [("SHA256SUMS", summed(plain) if sums is None else sums), *files]:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return target.getvalue()


@pytest.fixture
def archive(store: Store, create: Create) -> bytes:
    create("m", system="You answer in one word.")
    return packed(store, "m")


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(tmp_path / "other")


def test_models_arrive_as_they_were(store: Store, create: Create, other: Store) -> None:
    create("m", system="one")
    create("hf.co/someone/n:q4", source="m", system="two")
    data = packed(store, "m", "hf.co/someone/n:q4", "m:latest")
    assert data == packed(store, "hf.co/someone/n:q4", "m")
    assert sorted(unpack(other, data)) == ["hf.co/someone/n:q4", "m:latest"]
    for name in ("m", "hf.co/someone/n:q4"):
        assert other.model(name).digest == store.model(name).digest
    assert contents(other) == contents(store)


def test_a_dry_run_finds_damage_and_a_full_disk(archive: bytes, other: Store, tmp_path: Path) -> None:
    def check(store: Store, data: bytes) -> Sequence[str]:
        unpacking = Unpacking(store, dry_run=True)
        try:
            unpacking.write(data)
            return unpacking.commit()
        finally:
            unpacking.abort()

    before = contents(other)
    assert check(other, archive) == ["m:latest"]
    damaged = bytearray(archive)
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(InvalidArchive, match="damaged in it"):
        check(other, bytes(damaged))
    with pytest.raises(NotEnoughDisk):
        check(Store(tmp_path / "full", floor=1 << 62), archive)
    assert contents(other) == before


def test_any_tar_lists_it_and_sha256sum_checks_it(archive: bytes, tmp_path: Path, other: Store) -> None:
    (tmp_path / "m.tar").write_bytes(archive)
    listed = subprocess.run(["tar", "tf", "m.tar"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not listed.stderr
    names = listed.stdout.splitlines()
    assert names[:2] == ["SHA256SUMS", "manifests/registry.ollama.ai/library/m/latest"]
    assert all(name.startswith("blobs/sha256-") for name in names[2:])
    subprocess.run(["tar", "xf", "m.tar"], cwd=tmp_path, check=True)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)
    subprocess.run(["tar", "cf", "again.tar", *names], cwd=tmp_path, check=True)
    assert unpack(other, (tmp_path / "again.tar").read_bytes()) == ["m:latest"]


def test_long_names_and_pieces_of_any_length(store: Store, create: Create, tmp_path: Path) -> None:
    name = f"{'h' * 240}.example/{'n' * 80}/{'m' * 80}:{'t' * 80}"
    create(name)
    data = packed(store, name)
    for piece in (1, 511, 513, len(data)):
        assert unpack(Store(tmp_path / f"by-{piece}"), data, piece) == [name]


def test_blobs_that_are_there_are_not_written_again(archive: bytes, store: Store, create: Create) -> None:
    digest = store.model("m").model_digest
    blob = store.blobs.path(digest)
    before = blob.stat()
    modified = store.model("m").digest
    create("m", source="m", system="replaced")
    assert unpack(store, archive) == ["m:latest"]
    assert store.model("m").digest == modified
    assert os.path.samestat(before, blob.stat())
    assert b"replaced" not in {store.blobs.path(each).read_bytes() for each in store.blobs.digests()}
    blob.write_bytes(b"cut")
    assert unpack(store, archive) == ["m:latest"]
    assert blob.stat().st_size == before.st_size


def test_a_model_that_is_not_whole_is_not_exported(archive: bytes, store: Store) -> None:
    with pytest.raises(ModelNotFound):
        Packing(store, ["m", "nothing"])
    with pytest.raises(InvalidRequest, match="no model"):
        Packing(store, [])
    blob = store.blobs.path(store.model("m").model_digest)
    data = blob.read_bytes()
    blob.write_bytes(data[:-1] + b"\xff")
    with pytest.raises(ModelFileError, match="damaged"):
        packed(store, "m")
    blob.write_bytes(data[:-1])
    with pytest.raises(ModelFileError, match=f"{len(data) - 1:,} bytes, not {len(data):,}"):
        Packing(store, ["m"])
    blob.unlink()
    with pytest.raises(BlobNotFound):
        Packing(store, ["m"])


def test_what_is_exported_is_not_deleted_meanwhile(archive: bytes, store: Store, other: Store) -> None:
    chunks = Packing(store, ["m"]).chunks()
    data = next(chunks)
    store.delete("m")
    assert unpack(other, data + b"".join(chunks)) == ["m:latest"]


def test_the_floor_is_kept(archive: bytes, tmp_path: Path) -> None:
    full = Store(tmp_path / "full", floor=1 << 60)
    with pytest.raises(NotEnoughDisk):
        unpack(full, archive)
    assert contents(full) == set()


@pytest.mark.parametrize("fails", ["blobs.writer", "manifests.write"])
def test_a_disk_that_fills_up_leaves_nothing(
    archive: bytes, other: Store, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise NotEnoughDisk(1, 0)

    if fails == "manifests.write":
        monkeypatch.setattr(other.manifests, "write", full)
    else:
        monkeypatch.setattr("appliance.store.blobs.os.fsync", full)
    with pytest.raises(NotEnoughDisk):
        unpack(other, archive)
    assert contents(other) == set()


@given(at=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_changes_no_model(archive: bytes, tmp_path: Path, at: float, bits: int) -> None:
    place = int(at * len(archive))
    damaged = bytearray(archive)
    damaged[place] ^= bits
    target = Store(tmp_path / "damaged")
    try:
        unpack(target, bytes(damaged))
    except InvalidArchive:
        assert contents(target) == set()
    else:  # a byte that says nothing: an owner's name, the space behind a number
        assert packed(target, "m") == archive
        target.delete("m")


@given(length=st.floats(0, 1, exclude_max=True))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cut_archive_brings_nothing(archive: bytes, tmp_path: Path, length: float) -> None:
    whole = len(archive.rstrip(b"\0")) // 512 * 512 + 3 * 512
    target = Store(tmp_path / "cut")
    with pytest.raises(InvalidArchive):
        unpack(target, archive[: int(length * (whole - 1024))])
    assert contents(target) == set()


def link(kind: bytes, name: str, target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def manifest(*blobs: bytes, size: int | None = None) -> tuple[str, bytes]:
    layers = [
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{sha256(blob).hexdigest()}",
         "size": len(blob) if size is None else size}
        for blob in blobs
    ]  # fmt: skip
    return "manifests/h/n/m/t", json.dumps({"schemaVersion": 2, "config": {}, "layers": layers}).encode()


def blob(data: bytes) -> tuple[str, bytes]:
    return f"blobs/sha256-{sha256(data).hexdigest()}", data


A, B = b"some blob", b"another"
GOOD = [manifest(A), blob(A)]


def large(kind: bytes, name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


BAD = {
    "nothing": b"",
    "zeros": bytes(10240),
    "no tar": b"GGUF" * 1000,
    "no sums": tar_of(GOOD)[1024:],
    "no models": tar_of([]),
    "a path out of it": tar_of([*GOOD, ("../../evil", b"x")]),
    "an absolute path": tar_of([*GOOD, ("/etc/evil", b"x")]),
    "a path through a model's name": tar_of([("manifests/h/n/../t", GOOD[0][1]), GOOD[1]]),
    "a name too long": tar_of([(f"manifests/{'h' * 351}/n/m/t", GOOD[0][1]), GOOD[1]]),
    "a manifest too deep": tar_of([("manifests/h/n/m/t/x", GOOD[0][1]), GOOD[1]]),
    "another file": tar_of([*GOOD, ("blobs/notes", b"x")]),
    "a file that the sums lack": tar_of([*GOOD, blob(B)], summed(GOOD)),
    "a symbolic link": tar_of([GOOD[0], (link(tarfile.SYMTYPE, GOOD[1][0]), b"")], summed(GOOD)),
    "a hard link": tar_of([GOOD[0], (link(tarfile.LNKTYPE, GOOD[1][0]), b"")], summed(GOOD)),
    "a device": tar_of([GOOD[0], (link(tarfile.CHRTYPE, GOOD[1][0]), b"")], summed(GOOD)),
    "a folder": tar_of([(link(tarfile.DIRTYPE, "blobs", ""), b""), *GOOD], summed(GOOD)),
    "a sparse file": tar_of([GOOD[0], (link(tarfile.GNUTYPE_SPARSE, GOOD[1][0], ""), b"")], summed(GOOD)),
    "a blob twice": tar_of([*GOOD, GOOD[1]], summed(GOOD)),
    "a blob twice in the sums": tar_of([*GOOD, GOOD[1]]),
    "a model twice": tar_of([GOOD[0], ("manifests/H/n/m/t", GOOD[0][1]), GOOD[1]]),
    "a missing blob": tar_of([manifest(A, B), blob(A)]),
    "a missing blob that is listed": tar_of([manifest(A, B), blob(A)], summed([manifest(A, B), blob(A), blob(B)])),
    "a blob of no model": tar_of([*GOOD, blob(B)]),
    "another blob under a name": tar_of([GOOD[0], (GOOD[1][0], b"some blub")], summed(GOOD)),
    "another size": tar_of([manifest(A, size=8), blob(A)]),
    "blobs first": tar_of(reversed(GOOD)),
    "a manifest that is none": tar_of([("manifests/h/n/m/t", b"{"), blob(A)]),
    "something behind the end": tar_of(GOOD) + b"x",
    "an archive behind the end": tar_of(GOOD) * 2,
    "zeros without end": tar_of(GOOD) + bytes(20480),
    "sums of a terabyte": large(tarfile.REGTYPE, "SHA256SUMS", 1 << 40),
    "a size below zero": large(tarfile.REGTYPE, "SHA256SUMS", -1),
    "a long header": large(tarfile.XHDTYPE, "x", 1 << 40),
    "a header that never ends": large(tarfile.XHDTYPE, "x", 11) + b"9 size=1\n2\n".ljust(512, b"\0"),
    "a header of a header": (large(tarfile.XHDTYPE, "x", 11) + b"11 path=xx\n".ljust(512, b"\0")) * 2,
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_bad_archives_bring_nothing(other: Store, bad: bytes) -> None:
    with pytest.raises(InvalidArchive):
        unpack(other, bad)
    assert contents(other) == set()


def test_the_good_one_is_good(other: Store) -> None:
    assert unpack(other, tar_of(GOOD)) == ["h/n/m:t"]
    with pytest.raises(ApplianceError):
        other.model("h/n/m:u")
