"""export and import from the command line: beside running servers, and with the store alone."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.store.store import Store
from tests.server.daemon import PATIENCE_S, Server, serving
from tests.tiny_model import write_tiny_gguf

ASKED = {"model": "m", "prompt": "hello", "stream": False, "options": {"num_predict": 8, "temperature": 0}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("archives")


@pytest.fixture(scope="module")
def source(folder: Path) -> Iterator[Server]:
    with serving(folder / "source") as server:
        server.create("m", write_tiny_gguf(folder / "m.gguf"), system="Be brief.")
        yield server


@pytest.fixture(scope="module")
def archive(source: Server, folder: Path) -> Path:
    """What the command writes beside a server."""
    done = run(source, "export", "m", str(folder / "m.tar"))
    assert (done.returncode, done.stderr) == (0, b"exporting\n")
    return folder / "m.tar"


@pytest.fixture
def empty(tmp_path: Path) -> Server:
    """A server, not started, without a models folder yet."""
    server = Server(tmp_path / "models")
    server.client.close()
    return server


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "appliance", *arguments]


def run(server: Server, *arguments: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command(*arguments), env=server.environment, capture_output=True, timeout=PATIENCE_S, **more)


def files(server: Server) -> set[str]:
    found = (path for path in server.models.rglob("*") if path.is_file() and "onnx" not in path.parts)
    return {path.relative_to(server.models).as_posix() for path in found} - {"appliance.lock"}


def installed(server: Server) -> dict[str, str]:
    return {model["name"]: model["digest"] for model in server.client.get("/api/tags").json()["models"]}


def test_a_model_answers_the_same_elsewhere(source: Server, archive: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "models") as target:
        done = run(target, "import", str(archive))
        assert (done.returncode, done.stdout) == (0, b"imported m:latest\n")
        assert installed(target) == installed(source)
        said = [server.client.post("/api/generate", json=ASKED).json()["response"] for server in (source, target)]
        assert said[0] == said[1] != ""
        assert files(target) == files(source)


def test_a_damaged_archive_is_refused_by_a_server(source: Server, archive: Path) -> None:
    damaged = bytearray(archive.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    before = files(source)
    refused = run(source, "import", "-", input=bytes(damaged))
    assert refused.returncode == 1
    assert b"is damaged in it; make it with `appliance export`" in refused.stderr
    assert files(source) == before
    missing = run(source, "export", "nothing", str(archive.with_name("nothing.tar")))
    assert missing.stderr == b"Error: model 'nothing' not found\n"
    assert not list(archive.parent.glob("nothing.tar*"))


def test_a_blob_that_rots_ends_the_export(source: Server, archive: Path) -> None:
    source.create("rotten", write_tiny_gguf(archive.parent / "r.gguf", seed=1))
    (blob,) = [
        path for path in source.models.glob("blobs/*") if path.read_bytes() == (archive.parent / "r.gguf").read_bytes()
    ]
    blob.write_bytes(blob.read_bytes()[:-1] + b"\xff")
    target = archive.parent / "rotten.tar"
    target.write_bytes(b"an earlier one")
    assert b"broke off" in run(source, "export", "rotten", str(target)).stderr
    assert target.read_bytes() == b"an earlier one"
    assert not list(archive.parent.glob("rotten.tar-*"))
    assert "`appliance verify` says how to mend it" in source.log.read_text()


def test_a_dry_run_checks_and_changes_nothing(source: Server, archive: Path, empty: Server) -> None:
    for server in (source, empty):
        before = files(server)
        done = run(server, "import", "--dry-run", str(archive))
        assert (done.returncode, done.stdout) == (0, b"would import m:latest\n"), done.stderr
        refused = run(server, "import", "--dry-run", "-", input=archive.read_bytes()[:-2000])
        assert (refused.returncode, refused.stdout) == (1, b"")
        assert files(server) == before


def test_without_a_server(archive: Path, empty: Server) -> None:
    done = run(empty, "import", str(archive))
    assert (done.returncode, done.stdout) == (0, b"imported m:latest\n")
    again, left = archive.with_name("again.tar"), archive.with_name("again.tar-0.partial-999999999")
    left.write_bytes(b"of an export that was killed")
    assert run(empty, "export", "m", str(again)).returncode == 0
    assert again.read_bytes() == archive.read_bytes()
    assert not left.exists()
    assert run(empty, "export", "m", "-").stdout == archive.read_bytes()


def test_a_killed_import_leaves_nothing(archive: Path, empty: Server) -> None:
    data = archive.read_bytes()
    with subprocess.Popen(command("import", "-"), env=empty.environment, stdin=subprocess.PIPE) as process:
        assert process.stdin
        process.stdin.write(data[: len(data) // 2])
        process.stdin.flush()
        deadline = time.monotonic() + PATIENCE_S
        while not any(name.startswith("blobs/upload-") for name in files(empty)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    Store(empty.models)
    assert files(empty) == set()
