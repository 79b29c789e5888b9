"""The real model: as good as its own weights in float32, and the same text as an established engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from appliance.bundle import CHAT_TEMPLATE, TOKENIZER, read_description
from tests.converters.running import Decoder

pytestmark = pytest.mark.slow

DATA = Path(__file__).parent.parent / "data"
WINDOW_TOKENS = 512


@pytest.fixture(scope="module")
def tokenizer(exact_bundle: Path) -> Tokenizer:
    return Tokenizer.from_file(str(exact_bundle / TOKENIZER))


@pytest.fixture(scope="module")
def windows(tokenizer: Tokenizer) -> list[list[int]]:
    text = (DATA / "english.txt").read_text(encoding="utf-8")
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return [ids[start : start + WINDOW_TOKENS] for start in range(0, len(ids) - WINDOW_TOKENS, WINDOW_TOKENS)]


def window_logits(folder: Path, windows: list[list[int]]) -> list[np.ndarray]:
    decoder = Decoder(folder, capacity=WINDOW_TOKENS, threads=2)
    return [decoder.all_logits(window) for window in windows]


def mean_nll(logits: list[np.ndarray], windows: list[list[int]]) -> float:
    losses = []
    for scores, window in zip(logits, windows, strict=True):
        scores = scores[:-1].astype(np.float64)
        total = np.log(np.exp(scores - scores.max(1, keepdims=True)).sum(1)) + scores.max(1)
        losses.append(total - scores[np.arange(len(scores)), window[1:]])
    return float(np.concatenate(losses).mean())


def test_exact_loses_nothing_that_matters(exact_bundle: Path, fp32_bundle: Path, windows: list[list[int]]) -> None:
    exact, full = (window_logits(folder, windows) for folder in (exact_bundle, fp32_bundle))
    assert mean_nll(full, windows) == pytest.approx(3.1763, abs=0.001)
    assert abs(mean_nll(exact, windows) - mean_nll(full, windows)) <= 0.005
    same = np.concatenate([a.argmax(1) == b.argmax(1) for a, b in zip(exact, full, strict=True)])
    assert same.mean() >= 0.90


@pytest.mark.parametrize(
    "case", json.loads((DATA / "greedy-f32.json").read_text())["smollm2-f32"], ids=lambda c: c["prompt"][:30]
)
def test_greedy_text_is_that_of_the_reference_engine(fp32_bundle: Path, tokenizer: Tokenizer, case: dict) -> None:  # type: ignore[type-arg]
    """The same tokens, up to the first place where two are all but equally likely."""
    assert tokenizer.encode(case["prompt"], add_special_tokens=False).ids == case["prompt_tokens"]
    decoder = Decoder(fp32_bundle, capacity=256, threads=2)
    ids, past = case["prompt_tokens"], 0
    for expected in case["tokens"]:
        logits = decoder.step([ids], [past], [[len(ids) - 1]])[0, 0]
        past += len(ids)
        if not chosen(logits, expected):
            return
        ids = [expected]


def test_first_token_probabilities(fp32_bundle: Path) -> None:
    decoder = Decoder(fp32_bundle, capacity=256, threads=2)
    for case in json.loads((DATA / "greedy-f32.json").read_text())["smollm2-f32"]:
        ids = case["prompt_tokens"]
        assert_probabilities(decoder.step([ids], [0], [[len(ids) - 1]])[0, 0], case["first_top5"])


def chosen(logits: np.ndarray, expected: int) -> bool:
    """Whether a token is the likeliest; if not, it must be the second, and all but as likely."""
    first, second = np.sort(logits)[-1:-3:-1]
    if logits.argmax() == expected:
        return True
    assert logits[expected] == second
    assert first - second <= 0.02
    return False


def assert_probabilities(logits: np.ndarray, expected: list[dict[str, Any]]) -> None:
    scores = logits.astype(np.float64)
    logprobs = scores - np.log(np.exp(scores - scores.max()).sum()) - scores.max()
    for entry in expected:
        assert logprobs[entry["id"]] == pytest.approx(entry["lp"], abs=0.02)


def test_tokens_are_those_of_the_reference_engine(tokenizer: Tokenizer) -> None:
    expected = json.loads((DATA / "multilingual-tokens.json").read_text())["smollm2"]
    text = (DATA / "multilingual.txt").read_text(encoding="utf-8")
    tokenizer.encode_special_tokens = True  # the reference took control tokens in the text as plain text
    try:
        assert tokenizer.encode(text, add_special_tokens=False).ids == expected
        assert tokenizer.decode(expected, skip_special_tokens=False) == text
    finally:
        tokenizer.encode_special_tokens = False


def test_description(exact_bundle: Path, smollm2_gguf: Path) -> None:
    bundle = read_description(exact_bundle)
    assert (bundle.layers, bundle.kv_heads, bundle.head_dim, bundle.hidden_size) == (30, 3, 64, 576)
    assert (bundle.vocab_size, bundle.context_length, bundle.parameters) == (49152, 8192, 134515008)
    assert (bundle.bos_token, bundle.add_bos, bundle.eos_tokens) == (1, False, (2, 0))
    assert bundle.report["weights"]["Q8_0"] < 1e-6
    assert bundle.report["weights"]["Q4_1"] < 0.007
    assert bundle.report["peak_bytes"] < 500e6
    assert "<|im_start|>" in (exact_bundle / CHAT_TEMPLATE).read_text(encoding="utf-8")
