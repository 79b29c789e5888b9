"""Decode steps that are recorded; the CPU's provider plays the card, and runs a recorded step as it runs any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from appliance.bundle import read_description
from appliance.engine import binding, ort, providers, recorded
from appliance.engine.backend import Row
from appliance.engine.ort import OrtBackend
from appliance.engine.providers import NOT_RECORDED, Provider
from converters.bundle import convert
from tests.tiny_model import write_tiny_gguf

TOKENS = tuple(int(token) for token in np.random.default_rng(4).integers(0, 256, 30))
PASTS = (9, 20, 13)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    convert(write_tiny_gguf(folder / "tiny.gguf"), folder / "tiny", "fp32", target="cuda")
    return folder / "tiny"


@pytest.fixture
def on_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Provider, "on_card", True)


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The numbers of recordings that runs were given."""
    numbers: list[int | None] = []

    class Noted:
        def __init__(self, session: object) -> None:
            self._session = session

        def __getattr__(self, name: str) -> object:
            return getattr(self._session, name)

        def run_with_iobinding(self, binding: object, options: object) -> None:
            numbers.append(getattr(options, "recording", None))
            self._session.run_with_iobinding(binding, getattr(options, "real", options))

    class Options:
        def __init__(self, real: object, recording: int | None) -> None:
            self.real, self.recording = real, recording

    def run_options(shrinks: bool = False, recording: int | None = None) -> Options:
        return Options(providers.run_options(shrinks, recording), recording)

    for module in (binding, recorded):
        monkeypatch.setattr(module, "run_options", run_options)
    opened = ort.open_session
    monkeypatch.setattr("appliance.engine.ort.open_session", lambda *arguments: Noted(opened(*arguments)))
    return numbers


def opened(folder: Path) -> OrtBackend:
    return OrtBackend(folder, read_description(folder), slots=4, provider=providers.CPU, threads=1)


def steps(folder: Path) -> np.ndarray:
    """The logits of prompts and of what follows them, one token of each slot at a time."""
    backend = opened(folder)
    backend.run([Row(slot, 0, TOKENS[:past], logits=0) for slot, past in enumerate(PASTS)])
    parts = []
    for at in range(5):
        rows = [Row(slot, past + at, (TOKENS[past + at],)) for slot, past in enumerate(PASTS)]
        parts += [logits.copy() for logits in backend.run(rows)]
        parts += [logits.copy() for logits in backend.run(rows[1:2])]  # the same token again, in a range of its own
    backend.close()
    return np.concatenate(parts)


def test_compute_what_runs_compute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = steps(folder)
    monkeypatch.setattr(Provider, "on_card", True)
    np.testing.assert_array_equal(steps(folder), expected)


@pytest.mark.usefixtures("on_card")
def test_each_range_of_slots_has_a_recording_and_prompts_have_none(folder: Path, recordings: list[int | None]) -> None:
    backend = opened(folder)
    recordings.clear()
    backend.run([Row(0, 0, TOKENS[:9])])
    backend.run([Row(0, 9, TOKENS[9:10], logits=0)])
    for _ in range(2):
        backend.run([Row(0, 10, TOKENS[10:11])])
        backend.run([Row(1, 0, TOKENS[:1]), Row(2, 0, TOKENS[:1])])
    backend.run([Row(1, 1, TOKENS[:1])])
    backend.close()
    assert recordings == [NOT_RECORDED, NOT_RECORDED, 1, 2, 1, 2, 3]


@pytest.mark.usefixtures("on_card")
def test_logits_are_the_callers_own(folder: Path) -> None:
    backend = opened(folder)
    (first,) = backend.run([Row(0, 0, TOKENS[:1])])
    before = first.copy()
    backend.run([Row(0, 1, TOKENS[1:2])])
    np.testing.assert_array_equal(first, before)
    backend.close()


def test_nothing_is_recorded_on_the_cpu(folder: Path, recordings: list[int | None]) -> None:
    backend = opened(folder)
    backend.run([Row(0, 0, TOKENS[:9])])
    backend.run([Row(0, 9, TOKENS[9:10])])
    backend.close()
    assert set(recordings) == {None}
