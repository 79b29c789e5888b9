"""Embeddings of a tiny encoder: the same for a text whatever stands beside it in the batch."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from appliance.bundle import WEIGHTS, read_description
from appliance.engine import providers
from appliance.engine.encoder import Encoder, batches, open_encoder
from appliance.errors import EngineStopped, InvalidRequest, ModelFileError, PromptTooLong, RequestCancelled
from tests.tiny_encoder import VOCABULARY, write_tiny_encoder

RNG = np.random.default_rng(3)
TEXTS = [[int(token) for token in RNG.integers(0, VOCABULARY, length)] for length in (3, 48, 17, 20, 1, 17, 33)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "encoder"
    write_tiny_encoder(folder)
    return folder


@pytest.fixture
def encoder(folder: Path) -> Iterator[Encoder]:
    encoder = open_encoder(folder, read_description(folder), setting="cpu", threads=1)
    yield encoder
    encoder.close()


def test_together_as_alone_and_in_order(encoder: Encoder) -> None:
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    assert alone.shape == (len(TEXTS), encoder.dimensions)
    assert alone.dtype == np.float32
    together = encoder.encode(TEXTS)
    np.testing.assert_allclose(together, alone, atol=2e-6)
    assert np.abs(alone[0] - alone[1]).max() > 0.1


def test_many_callers(encoder: Encoder) -> None:
    expected = encoder.encode(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: encoder.encode(TEXTS), range(8)):
            np.testing.assert_array_equal(result, expected)


def test_no_inputs_no_embeddings(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, encoder.dimensions)


def test_refuses_what_does_not_fit(encoder: Encoder) -> None:
    with pytest.raises(PromptTooLong, match="49 tokens exceed the limit of 48"):
        encoder.encode([[1], [1] * 49])
    with pytest.raises(InvalidRequest, match="input 1 has no tokens"):
        encoder.encode([[1], []])


def test_a_withdrawn_call_ends_before_its_next_batch(encoder: Encoder) -> None:
    asked = []

    def cancelled() -> bool:
        asked.append(True)
        return len(asked) > 1

    with pytest.raises(RequestCancelled):
        encoder.encode(TEXTS, cancelled)
    assert len(asked) == 2


def test_closed_is_closed(folder: Path) -> None:
    encoder = Encoder(folder, read_description(folder), provider=providers.CPU, threads=1)
    encoder.close()
    encoder.close()
    with pytest.raises(EngineStopped):
        encoder.encode(TEXTS)


def test_falls_back_to_the_next_provider(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("appliance.engine.encoder.candidates", lambda setting: [providers.CUDA, providers.CPU])
    encoder = open_encoder(folder, read_description(folder), setting="auto", threads=1)
    assert encoder.provider == "CPU"
    assert encoder.memory_bytes == (folder / WEIGHTS).stat().st_size
    assert "CUDA cannot run this model" in caplog.text
    encoder.close()


def test_a_bundle_without_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    with pytest.raises(ModelFileError, match="weights are missing"):
        open_encoder(tmp_path, read_description(folder), setting="cpu", threads=1)


@pytest.mark.parametrize("budget", [1, 40, 100, 1000])
def test_batches_hold_every_place_once_within_budget_and_waste(budget: int) -> None:
    lengths = [int(length) for length in RNG.integers(1, 60, 100)]
    groups = batches(lengths, budget, waste=8)
    assert sorted(place for group in groups for place in group) == list(range(100))
    for group in groups:
        longest = max(lengths[place] for place in group)
        assert len(group) == 1 or longest * len(group) <= budget
        assert longest - min(lengths[place] for place in group) <= 8


def test_equal_lengths_run_together() -> None:
    assert batches([5, 9, 5, 5], budget=100, waste=0) == [[1], [0, 2, 3]]
