"""Making a model out of one that is not installed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from appliance.config import Settings
from appliance.core import CreateRequest
from appliance.errors import Forbidden, RegistryError
from appliance.registry import exchange
from appliance.registry.client import remote
from appliance.service import Service
from appliance.store.store import Store
from tests.registry.fake import FakeRegistry
from tests.tiny_model import write_tiny_gguf


@pytest.fixture(autouse=True)
def without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry of these tests speaks http."""
    monkeypatch.setattr(exchange, "remote", lambda reference, name, insecure: remote(reference, name, True))


def create(store: Store, source: str, **settings: Any) -> list[str]:
    """The statuses of a create; what fails is raised, with the statuses before it."""

    async def run() -> list[str]:
        statuses: list[str] = []
        service = Service(Settings(models=store.root, registry_auth_file=store.root / "auth.json", **settings), store)
        try:
            async for progress in service.create(CreateRequest("mine", source=source, system="Be brief.")):
                statuses.append(progress.status)
        except Exception as error:
            error.add_note(" | ".join(statuses))
            raise
        finally:
            await service.close()
        return statuses

    return asyncio.run(run())


@pytest.mark.spec(56)
def test_a_source_that_is_missing_is_pulled_first(store: Store, registry: FakeRegistry, tmp_path: Path) -> None:
    registry.add("lib/base", model=write_tiny_gguf(tmp_path / "m.gguf").read_bytes(), template=b"{{ .Prompt }}")
    source = f"{registry.host}/lib/base"
    statuses = create(store, source)
    assert statuses[0] == "pulling manifest"
    assert statuses[-2:] == ["writing manifest", "success"]
    assert statuses.count("success") == 1
    assert {model.name.short for model in store.list()} == {f"{source}:latest", "mine:latest"}
    mine = store.model("mine")
    assert (mine.template, mine.system) == ("{{ .Prompt }}", "Be brief.")
    asked = len(registry.asked)
    assert "pulling manifest" not in create(store, source.upper())
    assert len(registry.asked) == asked


def test_a_source_that_nobody_has(store: Store, registry: FakeRegistry) -> None:
    with pytest.raises(RegistryError, match="pull model manifest: file does not exist") as caught:
        create(store, f"{registry.host}/lib/none")
    assert caught.value.__notes__ == ["pulling manifest"]
    assert list(store.list()) == []


def test_a_source_that_is_missing_offline(store: Store, registry: FakeRegistry) -> None:
    with pytest.raises(Forbidden, match="lib/base' is not installed, and this server is offline"):
        create(store, f"{registry.host}/lib/base", offline=True)
    assert registry.asked == []
