"""Servers with a tiny model, and one with the real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.server.daemon import Server, serving
from tests.tiny_model import CONTROL, tiny_tokens, write_tiny_gguf

TINY = "tiny"
ENDLESS = "endless"


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def endless_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that at temperature 0 never says the end token: its logit is always 0, never the largest."""
    head = np.random.default_rng(1).standard_normal((len(tiny_tokens()), 64)).astype(np.float32)
    head[-len(CONTROL) :] = 0
    path = tmp_path_factory.mktemp("gguf") / "endless.gguf"
    return write_tiny_gguf(path, hidden=64, context_length=100_000, tensors={"output.weight": head})


@pytest.fixture(scope="session")
def tiny_server(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path, endless_gguf: Path) -> Iterator[Server]:
    """A running server that has the models `tiny` and `endless`. Tests leave it as they found it."""
    with serving(tmp_path_factory.mktemp("store") / "models") as server:
        server.create(TINY, tiny_gguf)
        server.create(ENDLESS, endless_gguf)
        yield server


@pytest.fixture(scope="session")
def smollm2_server(tmp_path_factory: pytest.TempPathFactory, smollm2_gguf: Path) -> Iterator[Server]:
    """A running server that has the model `smollm2:135m`."""
    with serving(tmp_path_factory.mktemp("store") / "models") as server:
        server.create("smollm2:135m", smollm2_gguf)
        yield server
