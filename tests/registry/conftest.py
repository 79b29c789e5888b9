"""A registry, a store, and an exchange between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from appliance.config import Settings
from appliance.core import Progress, TransferRequest
from appliance.registry import download, exchange, transport
from appliance.registry.exchange import Exchange
from appliance.store.store import Store
from tests.registry import fake
from tests.registry.fake import FakeRegistry

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with fake.serving() as running:
        yield running


@pytest.fixture
def storage() -> Iterator[FakeRegistry]:
    """Another host, where a registry may keep its blobs."""
    with fake.serving() as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small parts, short waits, no proxies."""
    monkeypatch.setattr(download, "PART_BYTES", 40_000)
    monkeypatch.setattr(download, "PIECE_BYTES", 10_000)
    monkeypatch.setattr(exchange, "PATIENCE", download.Patience(attempts=4, pause_s=0.01))
    monkeypatch.setattr(transport, "TIMEOUT_S", 2.0)
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def say_nothing(_: Path) -> str:
    """No advice."""
    return ""


class Transfers:
    """Pulls and pushes of one store, each with an event loop of its own."""

    def __init__(self, store: Store, **settings: Any) -> None:
        self.store = store
        self.settings: dict[str, Any] = {
            "models": store.root,
            "registry_auth_file": store.root / "auth.json",
        } | settings
        self.network: Any = None

    def exchange(self) -> Exchange:
        return Exchange(Settings(**self.settings), self.store, "0.33.0", self.network)

    def pull(self, model: str, insecure: bool = True) -> list[Progress]:
        return self.run(lambda exchange: exchange.pull(TransferRequest(model, insecure), say_nothing))

    def push(self, model: str, insecure: bool = True) -> list[Progress]:
        return self.run(lambda exchange: exchange.push(TransferRequest(model, insecure)))

    def run(self, begin: Callable[[Exchange], AsyncGenerator[Progress, None]]) -> list[Progress]:
        """All progress of one transfer; what fails is raised."""

        async def whole() -> list[Progress]:
            exchange = self.exchange()
            try:
                async with aclosing(begin(exchange)) as steps:
                    return [step async for step in steps]
            finally:
                await exchange.close()

        return asyncio.run(whole())


def statuses(progress: list[Progress]) -> list[str]:
    """Each status once."""
    return list(dict.fromkeys(step.status for step in progress))


@pytest.fixture
def transfers(store: Store) -> Transfers:
    return Transfers(store)
