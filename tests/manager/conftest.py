"""A world for each scenario."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.config import Settings
from appliance.core import CreateRequest
from appliance.store.store import Store
from tests.manager.world import NAMES, Scenario, World, install
from tests.store.conftest import add_file
from tests.tiny_model import write_tiny_gguf


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    store = Store(folder / "models")
    for seed, name in enumerate(NAMES):
        gguf = write_tiny_gguf(folder / f"{name}.gguf", seed=seed)
        digest = add_file(store, gguf)
        install(store, CreateRequest(name, files={"x.gguf": digest}))
    store.copy("a", "alias")
    install(store, CreateRequest("full", source="a", parameters={"recipe": "fp32"}))
    return folder / "models"


@pytest.fixture
def play(root: Path) -> Callable[..., None]:
    """Run a scenario in a world with the given settings."""

    def run(scenario: Scenario, **settings: Any) -> None:
        async def main() -> None:
            world = World(root, replace(Settings(models=root), threads=1, **settings))
            try:
                await asyncio.wait_for(scenario(world), 60)
            finally:
                await world.manager.close()

        asyncio.run(main())

    return run
