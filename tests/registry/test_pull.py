"""Pulling: what is stored, what is said, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from appliance.core import Progress, TransferRequest
from appliance.errors import Forbidden, InvalidName, InvalidRequest, NotEnoughDisk, RegistryError
from appliance.registry import pull
from appliance.store.store import Store
from tests.registry.conftest import Transfers, say_nothing, statuses
from tests.registry.fake import FakeRegistry, Handler, cut, digest_of, fail, garble

WEIGHTS = random.Random(1).randbytes(200_000)
DIGEST = digest_of(WEIGHTS)
CONFIG = b'{"model_family":"llama"}'
PULLING = f"pulling {DIGEST[7:19]}"


def name(registry: FakeRegistry, model: str = "lib/m") -> str:
    return f"{registry.host}/{model}"


def files(store: Store) -> set[str]:
    return {path.name for path in store.blobs.folder.iterdir()}


def partials(store: Store) -> set[str]:
    return {name for name in files(store) if "partial" in name}


def assert_pulled(store: Store, registry: FakeRegistry, model: str = "lib/m") -> None:
    """The model is there, byte for byte, and nothing else."""
    manifest = registry.manifests[f"{model}:latest"]
    assert (store.root / "manifests" / registry.host / model / "latest").read_bytes() == manifest
    parts = json.loads(manifest)
    digests = [part["digest"] for part in (*parts["layers"], parts["config"])]
    assert files(store) == {digest.replace(":", "-") for digest in digests}
    assert all(store.blobs.read(digest) == registry.blobs[digest] for digest in digests)


@pytest.mark.spec(77)
def test_what_a_pull_says(transfers: Transfers, registry: FakeRegistry) -> None:
    registry.add("lib/m", config=CONFIG, model=WEIGHTS, system=b"s")
    progress = transfers.pull(name(registry))
    assert statuses(progress) == [
        "pulling manifest",
        PULLING,
        f"pulling {digest_of(b's')[7:19]}",
        f"pulling {digest_of(CONFIG)[7:19]}",
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    pulling = [step for step in progress if step.status == PULLING]
    assert pulling[-1] == Progress(PULLING, DIGEST, len(WEIGHTS), len(WEIGHTS))
    assert [step.completed for step in pulling] == sorted(step.completed for step in pulling)
    assert_pulled(transfers.store, registry)
    assert set(registry.sent.values()) == {1}


def test_what_is_there_is_not_fetched(transfers: Transfers, registry: FakeRegistry) -> None:
    registry.add("lib/m", model=WEIGHTS, system=b"one")
    transfers.pull(name(registry))
    registry.add("lib/m", model=WEIGHTS, system=b"two")
    progress = transfers.pull(name(registry))
    assert [step for step in progress if step.status == PULLING] == [
        Progress(PULLING, DIGEST, len(WEIGHTS), len(WEIGHTS))
    ]
    assert statuses(progress)[-4:] == [
        "verifying sha256 digest",
        "writing manifest",
        "removing unused layers",
        "success",
    ]
    assert_pulled(transfers.store, registry)
    assert set(registry.sent.values()) == {1}


def test_noprune_keeps_what_was_replaced(tmp_path: Path, registry: FakeRegistry) -> None:
    transfers = Transfers(Store(tmp_path / "models", noprune=True))
    registry.add("lib/m", model=WEIGHTS, system=b"one")
    transfers.pull(name(registry))
    registry.add("lib/m", model=WEIGHTS, system=b"two")
    assert "removing unused layers" not in statuses(transfers.pull(name(registry)))
    assert transfers.store.blobs.has(digest_of(b"one"))


def test_blobs_from_another_host_without_the_token(
    transfers: Transfers, registry: FakeRegistry, storage: FakeRegistry
) -> None:
    registry.add("lib/m", model=WEIGHTS)
    registry.token, registry.storage, storage.blobs = "secret", storage.url, registry.blobs
    transfers.pull(name(registry))
    assert_pulled(transfers.store, registry)
    assert storage.asked
    assert not any("authorization" in asked.headers for asked in storage.asked)
    redirected = [path for path in registry.paths() if path.endswith(DIGEST)]
    assert len(redirected) < len([path for path in storage.paths() if path.endswith(DIGEST)])  # the place is remembered


def test_an_address_that_expires_is_asked_for_anew(
    transfers: Transfers, registry: FakeRegistry, storage: FakeRegistry
) -> None:
    registry.add("lib/m", model=WEIGHTS)
    registry.storage, storage.blobs = storage.url, registry.blobs
    storage.faults = [lambda _, data: data, fail(403), fail(403), fail(403)]
    transfers.pull(name(registry))
    assert_pulled(transfers.store, registry)


def test_a_server_that_ignores_ranges(transfers: Transfers, registry: FakeRegistry) -> None:
    registry.add("lib/m", model=WEIGHTS)
    registry.ranges = False
    registry.faults = [cut(70_000), cut(150_000)]
    transfers.pull(name(registry))
    assert_pulled(transfers.store, registry)


def test_broken_connections(transfers: Transfers, registry: FakeRegistry) -> None:
    registry.add("lib/m", model=WEIGHTS)
    registry.faults = [cut(15_000), fail(503), cut(0), fail(429), cut(39_999), cut(1)]
    transfers.pull(name(registry))
    assert_pulled(transfers.store, registry)
    assert set(registry.sent.values()) == {1}


@pytest.mark.spec(78)
def test_a_stalled_part_is_asked_for_again(
    transfers: Transfers, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from appliance.registry import transport

    monkeypatch.setattr(transport, "TIMEOUT_S", 0.3)
    registry.add("lib/m", model=WEIGHTS)

    def stall(handler: Any, data: bytes) -> bytes:
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 0-{len(data) - 1}/{len(WEIGHTS)}")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:5000])
        handler.connection.settimeout(20)
        handler.connection.recv(1)  # until the client has had enough
        return None  # type: ignore[return-value]

    registry.faults = [stall]
    transfers.pull(name(registry))
    assert_pulled(transfers.store, registry)


def test_a_changed_byte_costs_one_part_more(transfers: Transfers, registry: FakeRegistry) -> None:
    registry.add("lib/m", model=WEIGHTS)
    registry.faults = [lambda _, data: data, garble]
    transfers.pull(name(registry))
    assert_pulled(transfers.store, registry)
    fetched = sum(registry.sent.values()) - len(b"{}")
    assert len(WEIGHTS) < fetched < 2 * len(WEIGHTS)
    assert max(registry.sent.values()) == 2


@pytest.mark.spec(77)
def test_another_content_is_refused_and_thrown_away(transfers: Transfers, registry: FakeRegistry) -> None:
    registry.add("lib/m", model=WEIGHTS)
    other = bytes(len(WEIGHTS))
    registry.blobs[DIGEST] = other
    with pytest.raises(RegistryError) as failure:
        transfers.pull(name(registry))
    assert str(failure.value) == (
        f"digest mismatch, file must be downloaded again: want {DIGEST}, got {digest_of(other)}"
    )
    assert files(transfers.store) == set()
    assert list(transfers.store.list()) == []


def interrupted(transfers: Transfers, registry: FakeRegistry) -> None:
    """Leave a pull as soon as a part of the weights is there."""

    async def leave() -> None:
        exchange = transfers.exchange()
        async with aclosing(exchange.pull(TransferRequest(name(registry), True), say_nothing)) as steps:
            async for step in steps:
                if step.status == PULLING and step.completed >= 40_000:
                    break
        await exchange.close()

    registry.pause_s = 0.5  # before each part, of which one is left when the others arrive
    asyncio.run(leave())
    registry.pause_s = 0


@pytest.mark.spec(78)
def test_who_leaves_can_go_on_later(transfers: Transfers, registry: FakeRegistry) -> None:
    registry.add("lib/m", model=WEIGHTS)
    interrupted(transfers, registry)
    assert partials(transfers.store) == {f"sha256-{DIGEST[7:]}-partial", f"sha256-{DIGEST[7:]}-partial-journal"}
    store = Store(transfers.store.root)  # which clears away what nobody needs
    before = sum(registry.sent.values())
    Transfers(store).pull(name(registry))
    assert_pulled(store, registry)
    assert sum(registry.sent.values()) - before < len(WEIGHTS)


def test_what_the_disk_lost_is_fetched_again(transfers: Transfers, registry: FakeRegistry) -> None:
    registry.add("lib/m", model=WEIGHTS)
    interrupted(transfers, registry)
    partial = transfers.store.blobs.folder / f"sha256-{DIGEST[7:]}-partial"
    with partial.open("r+b") as file:
        file.seek(5_000)
        file.write(bytes(3_000))
    journal = partial.with_name(f"{partial.name}-journal")
    journal.write_bytes(journal.read_bytes() + b"+ 120000 50")  # cut short
    transfers.pull(name(registry))
    assert_pulled(transfers.store, registry)
    twice = [at for (digest, at), count in registry.sent.items() if digest == DIGEST and count > 1]
    assert set(range(10_000)) <= set(twice)
    assert len(twice) < len(WEIGHTS)


@pytest.mark.spec(78)
def test_a_download_that_ollama_began(transfers: Transfers, registry: FakeRegistry) -> None:
    registry.add("lib/m", model=WEIGHTS)
    partial = transfers.store.blobs.folder / f"sha256-{DIGEST[7:]}-partial"
    partial.write_bytes(WEIGHTS[:90_000] + bytes(10_000) + WEIGHTS[100_000:130_000] + bytes(70_000))
    for n, part in enumerate(((0, 100_000, 90_000), (100_000, 100_000, 30_000))):
        note = dict(zip(("N", "Offset", "Size", "Completed"), (n, *part), strict=True))
        partial.with_name(f"{partial.name}-{n}").write_text(json.dumps(note))
    transfers.pull(name(registry))
    assert_pulled(transfers.store, registry)
    assert sum(registry.sent.values()) == 80_000 + len(b"{}")


def test_one_download_for_all_who_ask(transfers: Transfers, registry: FakeRegistry) -> None:
    registry.add("lib/m", model=WEIGHTS)
    registry.add("lib/n", model=WEIGHTS, system=b"n")
    registry.pause_s = 0.02
    seen: dict[str, list[int]] = {}

    async def ask(exchange: Any, model: str, patience: int) -> None:
        steps = exchange.pull(TransferRequest(name(registry, model), True), say_nothing)
        async with aclosing(steps):
            async for step in steps:
                if step.status == PULLING:
                    seen.setdefault(f"{model}{patience}", []).append(step.completed)
                    if step.completed > patience:
                        return

    async def all_ask() -> None:
        exchange = transfers.exchange()
        everything = 10**9
        await asyncio.gather(
            ask(exchange, "lib/m", 1), ask(exchange, "lib/m", everything), ask(exchange, "lib/n", everything)
        )
        await exchange.close()

    asyncio.run(all_ask())
    assert {model.name.short for model in transfers.store.list()} == {
        f"{registry.host}/lib/m:latest", f"{registry.host}/lib/n:latest"
    }  # fmt: skip
    assert set(registry.sent.values()) == {1}
    assert all(len(numbers) > 1 for numbers in seen.values())


def test_the_disk_is_asked_first(transfers: Transfers, registry: FakeRegistry, tmp_path: Path) -> None:
    registry.add("lib/m", model=WEIGHTS)
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    store = Store(tmp_path / "full", floor=free * 2)
    with pytest.raises(NotEnoughDisk, match=r"not enough disk space: 0\.2 MB needed, 0\.0 MB available"):
        Transfers(store).pull(name(registry))
    assert not registry.sent
    assert files(store) == set()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (None, "pull model manifest: file does not exist"),
        (b"<html>", "is not a model's manifest"),
        (b"{}", "is a manifest without layers"),
        (
            json.dumps({"layers": [{"mediaType": "application/vnd.oci.image.layer", "digest": DIGEST, "size": 1}]}),
            "it has no layers of Ollama's kinds",
        ),
        (
            json.dumps({"layers": [{"mediaType": "application/vnd.ollama.image.tensor", "digest": DIGEST, "size": 1,
                                    "name": "model.norm"}]}),
            "this model requires MLX support, but the MLX runtime is not available",
        ),
    ],
)  # fmt: skip
def test_manifests_that_are_refused(
    transfers: Transfers, registry: FakeRegistry, raw: str | bytes | None, message: str
) -> None:
    if raw is not None:
        registry.manifests["lib/m:latest"] = raw.encode() if isinstance(raw, str) else raw
    with pytest.raises(RegistryError, match=message):
        transfers.pull(name(registry))
    assert list(transfers.store.list()) == []


def test_a_size_that_is_not_the_manifests(transfers: Transfers, registry: FakeRegistry) -> None:
    registry.add("lib/m", model=WEIGHTS)
    registry.blobs[DIGEST] = WEIGHTS * 2
    with pytest.raises(RegistryError, match="has 400000 bytes there, not 200000 as its manifest says"):
        transfers.pull(name(registry))


def test_patience_ends(transfers: Transfers, registry: FakeRegistry) -> None:
    registry.add("lib/m", model=WEIGHTS)
    registry.faults = [fail(500, b"down")] * 100
    with pytest.raises(RegistryError, match="max retries exceeded: 500: down"):
        transfers.pull(name(registry))
    registry.faults = []
    transfers.pull(name(registry))
    assert_pulled(transfers.store, registry)


def test_names_are_folded_to_what_is_installed(transfers: Transfers, registry: FakeRegistry) -> None:
    registry.add("lib/m", model=WEIGHTS)
    transfers.pull(name(registry))
    transfers.pull(name(registry, "LIB/M"))
    assert [model.name.short for model in transfers.store.list()] == [f"{registry.host}/lib/m:latest"]


@pytest.mark.parametrize("model", ["", " ", "a b", "x/", "-x"])
def test_names_that_are_none(transfers: Transfers, model: str) -> None:
    with pytest.raises(InvalidName, match="invalid model name"):
        transfers.pull(model)


def test_http_has_to_be_asked_for(transfers: Transfers) -> None:
    with pytest.raises(InvalidRequest, match="insecure protocol http"):
        transfers.pull("http://localhost/lib/m", insecure=False)
    with pytest.raises(InvalidRequest, match="the protocol ftp is not supported"):
        transfers.pull("ftp://localhost/lib/m")


def test_offline(store: Store, registry: FakeRegistry) -> None:
    registry.add("lib/m", model=WEIGHTS)
    transfers = Transfers(store, offline=True)
    with pytest.raises(Forbidden, match="APPLIANCE_OFFLINE"):
        transfers.pull(name(registry))
    with pytest.raises(InvalidName):
        transfers.pull("a b")
    assert registry.asked == []


def test_advice_comes_once_and_before_the_end(
    transfers: Transfers, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "HEAD_BYTES", 30_000)
    registry.add("lib/m", model=WEIGHTS)
    advised = threading.Event()
    heads = []

    def beginning_first(handler: Handler, data: bytes) -> bytes:
        if not handler.headers["Range"].startswith("bytes=0-"):
            advised.wait()
        return data

    async def advise(file: Path) -> str:
        with file.open("rb") as beginning:
            heads.append(beginning.read(30_000))
        advised.set()
        return "warning: no"

    registry.faults = [beginning_first] * 5

    progress = transfers.run(lambda exchange: exchange.pull(TransferRequest(name(registry), True), advise))
    assert heads == [WEIGHTS[:30_000]]
    said = [step.status for step in progress]
    assert said.count("warning: no") == 1
    assert said.index("warning: no") < len(said) - 1 - said[::-1].index(PULLING)
    assert_pulled(transfers.store, registry)
