"""Servers with a tiny model, and one with the real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.daemon import Server, serving
from tests.tiny_model import write_tiny_gguf

TINY = "tiny"


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_server(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path) -> Iterator[Server]:
    """A running server that has the model `tiny`. Tests leave it as they found it."""
    with serving(tmp_path_factory.mktemp("store") / "models") as server:
        server.create(TINY, tiny_gguf)
        yield server


@pytest.fixture(scope="session")
def smollm2_server(tmp_path_factory: pytest.TempPathFactory, smollm2_gguf: Path) -> Iterator[Server]:
    """A running server that has the model `smollm2:135m`."""
    with serving(tmp_path_factory.mktemp("store") / "models") as server:
        server.create("smollm2:135m", smollm2_gguf)
        yield server
