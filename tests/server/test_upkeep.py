"""df, prune and verify from the command line: beside a running server, and with the store alone."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from appliance.cli.main import main
from tests.server.daemon import Server, serving
from tests.tiny_model import write_tiny_gguf

ORPHAN = f"sha256-{'0' * 64}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a GGUF file, and a store with a model of it that has two bundles, and a blob that nothing uses."""
    folder = tmp_path_factory.mktemp("made")
    with serving(folder / "models") as server:
        server.create("m", write_tiny_gguf(folder / "m.gguf"), parameters={"recipe": "fp32"})
        server.create("m", folder / "m.gguf")
    assert len(bundles(server)) == 2
    (server.models / "blobs" / ORPHAN).write_bytes(b"x" * 5000)
    return folder


@pytest.fixture
def server(made: Path, tmp_path: Path) -> Iterator[Server]:
    """A server, not started, over a copy of the store."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    server = Server(tmp_path / "models")
    yield server
    server.client.close()


def bundles(server: Server) -> list[str]:
    return sorted(path.parent.name for path in server.models.glob("onnx/*/*/bundle.json"))


def run(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in this process, as if in one of its own."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, server.environment, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        main(arguments)
    return subprocess.CompletedProcess(arguments, int(end.value.code or 0), out.getvalue(), err.getvalue())


def asked(server: Server, *arguments: str) -> dict:
    return json.loads(run(server, *arguments, "--json").stdout)


@pytest.mark.parametrize("beside", [True, False], ids=["beside a server", "alone"])
def test_df_prune_and_verify(server: Server, beside: bool, request: pytest.FixtureRequest) -> None:
    if beside:
        server.environment["OLLAMA_NOPRUNE"] = "1"  # or the start would leave nothing to do
        server.start()
        request.addfinalizer(server.stop)
        body = {"model": "m", "prompt": "hello", "stream": False, "options": {"num_predict": 3}}
        assert server.client.post("/api/generate", json=body).status_code == 200
    usage = asked(server, "df")
    assert [model["name"] for model in usage["models"]] == ["m:latest"]
    assert (usage["unused"], usage["models"][0]["bundles"]) == (5000, usage["bundles"])
    assert ["unused", "blobs", "5", "KB"] in [line.split() for line in run(server, "df").stdout.splitlines()]
    listed = asked(server, "prune", "--dry-run")
    assert {each["name"].rpartition("/")[2] for each in listed["leftovers"]} == {ORPHAN, "fp32"}
    assert len(bundles(server)) == 2
    assert asked(server, "prune")["leftovers"] == listed["leftovers"]
    assert bundles(server) == ["exact"]
    assert not (server.models / "blobs" / ORPHAN).exists()
    assert run(server, "prune").stdout == "nothing to remove\n"
    whole = run(server, "verify")
    assert (whole.returncode, whole.stdout.rpartition(": ")[2]) == (0, "nothing damaged or missing\n")
    (config,) = [path for path in server.models.glob("blobs/*") if b'"model_format"' in path.read_bytes()[:1000]]
    config.write_bytes(config.read_bytes().replace(b"gguf", b"ggux"))
    broken = run(server, "verify", "--remove")
    assert (broken.returncode, broken.stderr.splitlines()[-1]) == (1, "Error: 1 damaged or missing")
    assert f"blobs/{config.name}: its bytes have the digest" in broken.stdout
    assert "needed by: m:latest" in broken.stdout
    assert not config.exists()
    if beside:
        assert server.client.post("/api/generate", json={"model": "m", "prompt": "x"}).status_code == 500
        server.create("m", server.models.parent / "m.gguf")
        assert server.client.post("/api/generate", json=body).status_code == 200


def test_a_store_that_another_server_holds_is_not_touched(server: Server) -> None:
    with serving(server.models, OLLAMA_NOPRUNE="1"):
        refused = run(server, "prune")
        assert refused.returncode == 1
        assert "another appliance already serves the models" in refused.stderr
        assert len(bundles(server)) == 2
        assert asked(server, "prune", "--dry-run")["leftovers"]
        assert asked(server, "df")["unused"] == 5000


def test_a_server_elsewhere_is_not_replaced_by_the_store_here(server: Server) -> None:
    server.environment["OLLAMA_HOST"] = "http://192.0.2.1:1"
    refused = run(server, "prune")
    assert "could not connect" in refused.stderr
    assert len(bundles(server)) == 2
