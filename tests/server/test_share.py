"""One server pulls from another, which shares its models."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.cli.serve import command as serve
from appliance.store.blobs import digest_of
from appliance.store.manifests import LAYER_TYPE, Layer
from appliance.store.names import parse_name
from appliance.store.store import Store
from tests.registry.docker import hostile_proxy
from tests.registry.test_docker_registry import kill_at
from tests.server.daemon import PATIENCE_S, Server, serving
from tests.tiny_model import write_tiny_gguf

LARGE = random.Random(1).randbytes(30_000_000)
ASKED = {"prompt": "hello", "stream": False, "options": {"num_predict": 8, "temperature": 0}}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that shares a model, and a manifest over a large blob."""
    folder = tmp_path_factory.mktemp("box")
    store = Store(folder / "models")
    store.blobs.add(LARGE)
    store.publish(parse_name("someone/large"), [Layer(f"{LAYER_TYPE}model", digest_of(LARGE), len(LARGE))], b"{}")
    with serving(folder / "models", APPLIANCE_SHARE="1") as server:
        server.create("m", write_tiny_gguf(folder / "m.gguf"), system="Be brief.")
        yield server


def digests(server: Server) -> dict[str, str]:
    return {model["name"]: model["digest"] for model in server.client.get("/api/tags").json()["models"]}


def test_pulled_from_another_box(box: Server, tmp_path: Path) -> None:
    name = f"{box.url.removeprefix('http://')}/library/m"
    with serving(tmp_path / "models") as other:
        command = [sys.executable, "-m", "appliance", "pull", name, "--insecure"]
        done = subprocess.run(command, env=other.environment, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stderr
        assert digests(other) == {f"{name}:latest": digests(box)["m:latest"]}
        answers = [
            server.client.post("/api/generate", json={"model": model, **ASKED}).json()["response"]
            for server, model in ((box, "m"), (other, name))
        ]
        assert answers[0] == answers[1] != ""
        body = {"model": f"{box.url.removeprefix('http://')}/library/none", "insecure": True, "stream": False}
        assert "file does not exist" in other.client.post("/api/pull", json=body).json()["error"]


def test_killed_and_broken_off_a_pull_goes_on(box: Server, tmp_path: Path) -> None:
    host = box.url.removeprefix("http://")
    with hostile_proxy(host, LARGE, garbled=1000) as proxy, serving(tmp_path / "models") as other:
        kill_at(other, proxy, len(LARGE) // 2, f"{proxy.host}/someone/large")
        body = {"model": f"{proxy.host}/someone/large", "insecure": True, "stream": False}
        assert other.client.post("/api/pull", json=body).json() == {"status": "success"}
        blob = other.models / "blobs" / digest_of(LARGE).replace(":", "-")
        assert digest_of(blob.read_bytes()) == digest_of(LARGE)
        assert proxy.fetched.min() >= 1
        assert proxy.fetched.mean() < 2  # what was there was not fetched again


def test_the_protocol(box: Server) -> None:
    for path in ("/v2", "/v2/"):
        ping = box.client.get(path)
        assert (ping.status_code, ping.headers["docker-distribution-api-version"]) == (200, "registry/2.0")
    assert box.client.get("/v2/someone/small/tags/list").status_code == 404
    assert box.client.get("/v2/someone/large/tags/list").json() == {"name": "someone/large", "tags": ["latest"]}
    manifest = box.client.get("/v2/someone/large/manifests/latest")
    digest = digest_of(manifest.content)
    assert manifest.headers["docker-content-digest"] == digest
    assert manifest.headers["content-type"] == manifest.json()["mediaType"]
    assert box.client.get(f"/v2/someone/large/manifests/{digest}").content == manifest.content
    blob = f"/v2/someone/large/blobs/{digest_of(LARGE)}"
    for path, whole in ((blob, len(LARGE)), ("/v2/someone/large/manifests/latest", len(manifest.content))):
        head = box.client.head(path)
        assert (head.status_code, head.headers["content-length"], head.content) == (200, str(whole), b"")
    assert digest_of(box.client.get(blob).content) == digest_of(LARGE)
    part = box.client.get(blob, headers={"Range": "bytes=1000-2499999"})
    assert (part.status_code, part.headers["content-range"]) == (206, f"bytes 1000-2499999/{len(LARGE)}")
    assert digest_of(part.content) == digest_of(LARGE[1000:2500000])
    beyond = box.client.get(blob, headers={"Range": f"bytes={len(LARGE)}-"})
    assert (beyond.status_code, beyond.headers["content-range"], beyond.content) == (416, f"bytes */{len(LARGE)}", b"")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v2/library/none/manifests/latest", "MANIFEST_UNKNOWN"),
        (f"/v2/library/m/blobs/{digest_of(LARGE)}", "BLOB_UNKNOWN"),
        ("/v2/library/m/blobs/sha256:..", "BLOB_UNKNOWN"),
        ("/v2/library/m/blobs/..%2f..%2fmanifests", ""),
        ("/v2/..%2f/m/manifests/latest", ""),
    ],
)
def test_what_is_not_shared(box: Server, path: str, code: str) -> None:
    answer = box.client.get(path)
    assert answer.status_code == 404
    assert not code or answer.json()["errors"][0]["code"] == code
    assert box.client.head(path).status_code == 404


def test_the_flag_needs_no_value() -> None:
    for arguments, share in ((["--share", "--port", "1"], "1"), (["--share", "0", "--port", "1"], "0"), ([], None)):
        assert serve.make_context("serve", arguments).params["share"] == share


def test_only_reading_is_shared(box: Server) -> None:
    before = digests(box)
    assert box.client.post("/v2/library/m/blobs/uploads/").status_code in (404, 405)
    assert box.client.put("/v2/library/m/manifests/latest", content=b"{}").status_code == 405
    assert box.client.delete("/v2/library/m/manifests/latest").status_code == 405
    assert box.client.get("/v2/", headers={"Host": "evil.example"}).status_code == 403
    assert digests(box) == before
