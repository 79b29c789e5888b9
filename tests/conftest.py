"""Fixtures that more than one room uses."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests import real_model

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have it ignored by what they start with &


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The real model's GGUF file; downloaded on first use. Tests that ask for it are slow."""
    return real_model.model_path()


@pytest.fixture(scope="session")
def exact_bundle() -> Path:
    """The real model converted with the recipe that the appliance uses."""
    return real_model.bundle_folder("exact")


@pytest.fixture(scope="session")
def fp32_bundle() -> Path:
    """The real model in float32, the reference."""
    return real_model.bundle_folder("fp32")
