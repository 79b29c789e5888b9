"""Models of the oracle, which several tests convert."""

from __future__ import annotations

from functools import cache

import pytest

from tests.converters.oracle import CASES, Make, Reference, make


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes a case's model, once for each type of its matrices."""

    @cache
    def made(name: str, tensor_type: str = "F32") -> Reference:
        return make(CASES[name], tmp_path_factory.mktemp(name), tensor_type)

    return made
