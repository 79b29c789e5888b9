"""Measuring a bundle against its source: the same figures as a plain run of the whole windows gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from appliance.bundle import MODEL, TOKENIZER, read_description
from converters import fidelity
from converters.bundle import convert
from converters.fidelity import MOST_WINDOWS, WINDOW_TOKENS, calibration_tokens, compare, round_trip
from tests.converters.running import Decoder
from tests.tiny_model import write_tiny_gguf

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("fidelity")
    convert(write_tiny_gguf(base / "m.gguf"), base / "fp32", "fp32")
    return base / "fp32"


def plain_nll(folder: Path, windows: list[list[int]]) -> float:
    losses = []
    for window in windows:
        scores = Decoder(folder, capacity=len(window)).all_logits(window)[:-1].astype(np.float64)
        losses.append(np.log(np.exp(scores).sum(1)) - scores[np.arange(len(scores)), window[1:]])
    return float(np.concatenate(losses).mean())


def test_nll_is_that_of_whole_windows(folder: Path) -> None:
    ids = calibration_tokens(folder)
    places = np.linspace(0, len(ids) - WINDOW_TOKENS, MOST_WINDOWS).astype(int)
    expected = plain_nll(folder, [ids[place : place + WINDOW_TOKENS] for place in places])
    result = compare(folder / MODEL, None)
    assert result == {"tokens": MOST_WINDOWS * (WINDOW_TOKENS - 1), "nll": pytest.approx(expected, abs=1e-3)}


def test_against_itself_and_another(folder: Path, tmp_path: Path) -> None:
    same = compare(folder / MODEL, folder / MODEL)
    assert same["nll"] == same["source_nll"]
    assert (same["top1"], same["kl"]) == (1, 0)
    convert(write_tiny_gguf(tmp_path / "m.gguf", seed=1), tmp_path / "other", "fp32")
    other = compare(tmp_path / "other" / MODEL, folder / MODEL)
    assert other["source_nll"] == same["nll"]
    assert other["nll"] != same["nll"]
    assert other["top1"] < 0.5
    assert other["kl"] > 1


def test_divergence_is_that_of_the_definition(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.txt").write_text("hello the inn")
    monkeypatch.setattr(fidelity, "TEXT", tmp_path / "t.txt")
    convert(write_tiny_gguf(tmp_path / "m.gguf", seed=1), tmp_path / "other", "fp32")
    ids = calibration_tokens(folder)
    p, q = (Decoder(path).all_logits(ids)[:-1].astype(np.float64) for path in (folder, tmp_path / "other"))
    p, q = (each - np.log(np.exp(each).sum(1, keepdims=True)) for each in (p, q))
    expected = float((np.exp(p) * (p - q)).sum(1).mean())
    assert compare(tmp_path / "other" / MODEL, folder / MODEL)["kl"] == pytest.approx(expected, abs=2e-4)


def test_the_text_comes_back_whole(folder: Path) -> None:
    tokens = len(calibration_tokens(folder))
    assert round_trip(folder) == {"tokens": tokens, "stable": True, "changed_words": 0}


def test_a_tokenizer_that_does_not_come_back_is_noticed(folder: Path, tmp_path: Path) -> None:
    facts = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))
    facts["decoder"] = {"type": "Fuse"}  # the bytes' stand-ins stay as they are
    (tmp_path / TOKENIZER).write_text(json.dumps(facts), encoding="utf-8")
    result = round_trip(tmp_path)
    assert not result["stable"]
    assert result["changed_words"] > 0


def test_a_window_begins_as_prompts_do(tmp_path: Path) -> None:
    metadata = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 264}
    convert(write_tiny_gguf(tmp_path / "m.gguf", metadata=metadata), tmp_path / "fp32", "fp32")
    assert read_description(tmp_path / "fp32").bos_token == 264
    windows = fidelity._windows(tmp_path / "fp32")
    assert [window[0] for window in windows] == [264] * MOST_WINDOWS
    assert {len(window) for window in windows} == {WINDOW_TOKENS}


@pytest.mark.parametrize("text", ["", "a"])
def test_nothing_to_measure(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "t.txt").write_text(text)
    monkeypatch.setattr(fidelity, "TEXT", tmp_path / "t.txt")
    assert compare(folder / MODEL, None) == {}


@pytest.mark.parametrize(("text", "tokens"), [("ab", 1), ("xyz" * 20, 59)])
def test_a_short_text(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, tokens: int) -> None:
    (tmp_path / "t.txt").write_text(text)
    monkeypatch.setattr(fidelity, "TEXT", tmp_path / "t.txt")
    assert compare(folder / MODEL, None)["tokens"] == tokens


def test_the_text_is_not_one_that_tests_measure_on() -> None:
    words = (ROOT / "tests" / "data" / "english.txt").read_text(encoding="utf-8").split()
    tested = {tuple(words[at : at + 8]) for at in range(len(words) - 7)}
    own = fidelity.TEXT.read_text(encoding="utf-8").split()
    assert not tested & {tuple(own[at : at + 8]) for at in range(len(own) - 7)}
