"""Gemma 3 with real weights: the text of an established engine, and as good as its own weights in float32."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from appliance.bundle import TOKENIZER, read_description
from tests import real_model
from tests.converters.running import Decoder
from tests.converters.test_real_model import DATA, assert_probabilities, chosen

pytestmark = pytest.mark.slow

CASES = json.loads((DATA / "greedy-f32.json").read_text())["gemma3-f32"]
WINDOW_TOKENS = 1024  # twice what a windowed layer sees
STEP_TOKENS = 128  # of a vocabulary of 262,144: 134 MB of logits


@pytest.fixture(scope="module")
def exact() -> Path:
    return real_model.bundle_folder("exact", model=real_model.GEMMA)


@pytest.fixture(scope="module")
def full() -> Path:
    return real_model.bundle_folder("fp32", model=real_model.GEMMA)


@pytest.fixture(scope="module")
def tokenizer(exact: Path) -> Tokenizer:
    return Tokenizer.from_file(str(exact / TOKENIZER))


def test_prompts_are_read_as_the_reference_engine_reads_them(tokenizer: Tokenizer) -> None:
    for case in CASES:
        bos, *text = case["prompt_tokens"]
        assert tokenizer.encode(case["prompt"], add_special_tokens=False).ids == text
        assert bos == tokenizer.token_to_id("<bos>")


def test_greedy_texts_are_those_of_the_reference_engine(full: Path) -> None:
    """The same tokens, all prompts side by side, up to the first place where two are all but equally likely."""
    decoder = Decoder(full, rows=len(CASES), capacity=128, threads=2)
    parts, done, going = [case["prompt_tokens"] for case in CASES], [0] * len(CASES), [True] * len(CASES)
    for step in range(len(CASES[0]["tokens"])):
        logits = decoder.step(parts, done, [[max(len(part) - 1, 0)] for part in parts])[:, 0]
        done = [past + len(part) for past, part in zip(done, parts, strict=True)]
        for row, case in enumerate(CASES):
            going[row] = going[row] and chosen(logits[row], case["tokens"][step])
            parts[row] = [case["tokens"][step]] if going[row] else []
        if step == 0:
            for scores, case in zip(logits, CASES, strict=True):
                assert_probabilities(scores, case["first_top5"])
    assert sum(going) >= len(CASES) - 2


def losses(folder: Path, ids: list[int]) -> Iterator[float]:
    """How much each token after the first surprises the model, in nats."""
    decoder = Decoder(folder, capacity=WINDOW_TOKENS, threads=2)
    for start in range(0, len(ids) - 1, STEP_TOKENS):
        chunk, following = ids[start : start + STEP_TOKENS], ids[start + 1 : start + STEP_TOKENS + 1]
        logits = decoder.step([chunk], [start], [range(len(following))])[0]
        logits -= logits.max(axis=1, keepdims=True)
        yield from np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(following)), following]


def test_exact_loses_nothing_within_and_beyond_the_window(exact: Path, full: Path, tokenizer: Tokenizer) -> None:
    text = (DATA / "english.txt").read_text(encoding="utf-8")
    ids = [read_description(exact).bos_token, *tokenizer.encode(text, add_special_tokens=False).ids][:WINDOW_TOKENS]
    own, reference = (np.array(list(losses(folder, ids))) for folder in (exact, full))
    assert len(own) == WINDOW_TOKENS - 1
    assert reference.mean() < 4
    assert abs(own.mean() - reference.mean()) <= 0.01
    assert reference[512:].mean() < 4
    assert abs(own[512:].mean() - reference[512:].mean()) <= 0.02


def test_description(exact: Path) -> None:
    bundle = read_description(exact)
    assert (bundle.architecture, bundle.layers, bundle.kv_heads, bundle.head_dim) == ("gemma3", 18, 1, 256)
    assert (bundle.vocab_size, bundle.context_length, bundle.add_bos) == (262144, 32768, True)
    assert bundle.report["peak_bytes"] < 500e6
