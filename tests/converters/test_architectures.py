"""Every decoder architecture against transformers' own model: one row each, however the tokens are dealt out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from converters.bundle import convert
from tests.converters.oracle import CASES, PROMPT, Reference, make
from tests.converters.running import Decoder

READY = [name for name, case in CASES.items() if case.architecture == "llama" and name != "mistral-window"]


@pytest.fixture(scope="module", params=READY)
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return make(CASES[request.param], tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def bundle(reference: Reference) -> Path:
    """The model from its GGUF file, in float32."""
    folder = reference.gguf.with_name("fp32")
    convert(reference.gguf, folder, "fp32")
    return folder


def equal(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, atol=2e-4)


def dealt(folder: Path, ids: list[int], sizes: Iterator[int]) -> np.ndarray:
    """Logits [len(ids), vocabulary] of tokens that come so many at a time."""
    decoder, done, parts = Decoder(folder), 0, []
    while done < len(ids):
        chunk = ids[done : done + next(sizes)]
        parts.append(decoder.step([chunk], [done], [range(len(chunk))])[0])
        done += len(chunk)
    return np.concatenate(parts)


class TestFloat32:
    def test_prefill(self, reference: Reference, bundle: Path) -> None:
        equal(Decoder(bundle).all_logits(reference.ids), reference.logits)

    def test_chunks(self, reference: Reference, bundle: Path) -> None:
        equal(dealt(bundle, reference.ids, iter((5, 20, 2, 13, 8))), reference.logits)

    def test_one_token_at_a_time(self, reference: Reference, bundle: Path) -> None:
        equal(dealt(bundle, reference.ids, iter([1] * len(reference.ids))), reference.logits)

    def test_continues_a_prompt_as_transformers_does_over_its_cache(self, reference: Reference, bundle: Path) -> None:
        sizes = iter([PROMPT, *[1] * len(reference.continued)])
        equal(dealt(bundle, reference.ids, sizes)[PROMPT:], reference.continued)
