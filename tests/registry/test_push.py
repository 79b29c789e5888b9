"""Pushing: to a registry that takes parts itself, and to one that sends them elsewhere."""

from __future__ import annotations

import hashlib
import random

import pytest

from appliance.core import Progress
from appliance.errors import Forbidden, InvalidName, InvalidRequest, ModelNotFound, RegistryError
from appliance.registry import upload
from appliance.store.manifests import Layer
from appliance.store.store import Store
from tests.registry.conftest import Transfers, statuses
from tests.registry.fake import CONFIG, LAYER, MANIFEST, FakeRegistry, digest_of

WEIGHTS = random.Random(2).randbytes(200_000)
DIGEST = digest_of(WEIGHTS)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "LEAST_PART_BYTES", 60_000)
    monkeypatch.setattr(upload, "PIECE_BYTES", 10_000)


def install(store: Store, reference: str, source: str = "") -> bytes:
    """A model in the store; returns its manifest."""
    for data in (WEIGHTS, b"{}"):
        store.blobs.add(data)
    name = store.resolve(reference)
    store.publish(name, [Layer(f"{LAYER}model", DIGEST, len(WEIGHTS), source)], b"{}")
    return store.manifests.read(name)


def test_what_a_push_says(transfers: Transfers, registry: FakeRegistry) -> None:
    raw = install(transfers.store, f"{registry.host}/lib/m:1")
    progress = transfers.push(f"{registry.host}/lib/m:1")
    assert statuses(progress) == [
        "retrieving manifest",
        f"pushing {DIGEST[7:19]}",
        f"pushing {digest_of(b'{}')[7:19]}",
        "pushing manifest",
        "success",
    ]
    assert Progress(f"pushing {DIGEST[7:19]}", DIGEST, len(WEIGHTS), len(WEIGHTS)) in progress
    assert registry.manifests == {"lib/m:1": raw}
    assert registry.blobs == {DIGEST: WEIGHTS, digest_of(b"{}"): b"{}"}
    manifest = next(asked for asked in registry.asked if "/manifests/" in asked.path)
    assert manifest.headers["content-type"] == MANIFEST
    patches = [asked.headers for asked in registry.asked if asked.method == "PATCH" and len(asked.body) > 2]
    assert [headers["content-range"] for headers in patches] == [
        "0-59999", "60000-119999", "120000-179999", "180000-199999"
    ]  # fmt: skip
    assert [asked.path for asked in registry.asked if asked.method == "PATCH"][1].endswith("?state=0-59999")
    parts = [WEIGHTS[start : start + 60_000] for start in range(0, 200_000, 60_000)]
    whole = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()
    assert registry.committed[DIGEST]["etag"] == f"{whole}-4"


def test_what_is_there_is_not_sent(transfers: Transfers, registry: FakeRegistry) -> None:
    install(transfers.store, f"{registry.host}/lib/m")
    registry.blobs = {DIGEST: WEIGHTS, digest_of(b"{}"): b"{}"}
    progress = transfers.push(f"{registry.host}/lib/m")
    assert Progress(f"pushing {DIGEST[7:19]}", DIGEST, len(WEIGHTS), len(WEIGHTS)) in progress
    assert registry.uploads == {}


def test_parts_that_go_elsewhere(transfers: Transfers, registry: FakeRegistry, storage: FakeRegistry) -> None:
    install(transfers.store, f"{registry.host}/lib/m")
    registry.token = "secret"
    registry.redirects_uploads, registry.storage = True, storage.url
    transfers.push(f"{registry.host}/lib/m")
    parts = [
        data
        for name, data in sorted(storage.uploads.items(), key=lambda item: int(item[0].split(".")[1].split("-")[0]))
    ]
    assert b"".join(data for data in parts if data != b"{}") == WEIGHTS
    assert not any("authorization" in asked.headers for asked in storage.asked)
    assert registry.committed.keys() == {DIGEST, digest_of(b"{}")}
    assert "lib/m:latest" in registry.manifests


@pytest.mark.parametrize(
    ("source", "mounted"), [("lib/base:1", True), ("other.example/lib/base:1", False), ("", False)]
)
def test_a_layer_of_another_model_is_mounted(
    transfers: Transfers, registry: FakeRegistry, source: str, mounted: bool
) -> None:
    own = f"{registry.host}/{source}" if source.startswith("lib/") else source
    install(transfers.store, f"{registry.host}/lib/m", own)
    registry.mountable = True
    transfers.push(f"{registry.host}/lib/m")
    begun = registry.paths("POST")[0]
    assert begun == (
        f"/v2/lib/m/blobs/uploads/?mount={DIGEST.replace(':', '%3A')}&from=lib%2Fbase" if mounted
        else "/v2/lib/m/blobs/uploads/"
    )  # fmt: skip
    assert (DIGEST in registry.blobs) is not mounted


def test_an_upload_that_breaks_off_is_begun_again(transfers: Transfers, registry: FakeRegistry) -> None:
    install(transfers.store, f"{registry.host}/lib/m")
    registry.faults = [lambda handler, data: None]
    transfers.push(f"{registry.host}/lib/m")
    assert registry.blobs[DIGEST] == WEIGHTS


def test_patience_ends(transfers: Transfers, registry: FakeRegistry) -> None:
    install(transfers.store, f"{registry.host}/lib/m")
    registry.faults = [lambda handler, data: None] * 100
    with pytest.raises(RegistryError, match="max retries exceeded: "):
        transfers.push(f"{registry.host}/lib/m")
    assert registry.manifests == {}


def push_all(transfers: Transfers, model: str) -> tuple[list[str], Exception]:
    """The statuses of a push that fails, and its error."""
    seen: list[str] = []

    async def noting(exchange):  # type: ignore[no-untyped-def]
        from appliance.core import TransferRequest

        async for step in exchange.push(TransferRequest(model, True)):
            seen.append(step.status)
            yield step

    with pytest.raises(Exception) as failure:
        transfers.run(noting)
    return seen, failure.value


def test_what_cannot_be_pushed(transfers: Transfers) -> None:
    lost = ["retrieving manifest", "couldn't retrieve manifest"]
    seen, error = push_all(transfers, "nope")
    assert (seen, str(error), type(error)) == (lost, "model 'nope' not found", ModelNotFound)
    seen, error = push_all(transfers, "a//b")
    assert (seen, str(error), type(error)) == (lost, "unqualified name: a//b", InvalidName)
    seen, error = push_all(transfers, "")
    assert (seen, str(error), type(error)) == ([], "model is required", InvalidRequest)


def test_offline(store: Store, registry: FakeRegistry) -> None:
    """What is wrong with the name is said all the same."""
    transfers = Transfers(store, offline=True)
    install(store, f"{registry.host}/lib/m")
    seen, error = push_all(transfers, f"{registry.host}/lib/m")
    assert (seen, type(error)) == ([], Forbidden)
    assert "APPLIANCE_OFFLINE" in str(error)
    assert [type(push_all(transfers, model)[1]) for model in ("a//b", "nope")] == [InvalidName, ModelNotFound]
    assert registry.asked == []


def test_a_registry_that_refuses(transfers: Transfers, registry: FakeRegistry) -> None:
    install(transfers.store, f"{registry.host}/lib/m")
    registry.accepted = "nothing"
    registry.challenge = 'Basic realm="x"'
    with pytest.raises(RegistryError, match="unauthorized: access denied"):
        transfers.push(f"{registry.host}/lib/m")


def test_the_config_is_sent_as_what_it_is(transfers: Transfers, registry: FakeRegistry) -> None:
    install(transfers.store, f"{registry.host}/lib/m")
    transfers.push(f"{registry.host}/lib/m")
    assert CONFIG.encode() in registry.manifests["lib/m:latest"]
