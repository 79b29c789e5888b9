"""SmolLM2 through the engine: the same text alone and in company, the same quality one token at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest

from appliance.bundle import read_description
from appliance.core import Chunk, Request, SamplingParams
from appliance.engine import providers
from appliance.engine.backend import Row
from appliance.engine.engine import Engine
from appliance.engine.ort import OrtBackend
from appliance.prompt.tokenizer import Tokenizer
from tests.engine.fakes import cheap_drafts, run_alone

pytestmark = pytest.mark.slow

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a small village,",
    "def fibonacci(n):",
    "Water boils at",
    "The three primary colours are",
    "Dear Sir or Madam, I am writing to",
    "1, 1, 2, 3, 5, 8,",
    "The old lighthouse keeper had not spoken to anyone for",
)
ENGLISH = Path(__file__).parent.parent / "data" / "english.txt"
WINDOW_TOKENS = 512


def open_engine(folder: Path) -> tuple[Engine, Tokenizer]:
    bundle = read_description(folder)
    tokenizer = Tokenizer.load(folder, bundle)
    backend = OrtBackend(folder, bundle, slots=8, provider=providers.CPU, threads=0)
    return Engine(backend, tokenizer, eos=bundle.eos_tokens, chunk_tokens=256, max_waiting=8), tokenizer


@pytest.fixture(scope="module")
def full(fp32_bundle: Path) -> Iterator[tuple[Engine, Tokenizer]]:
    engine, tokenizer = open_engine(fp32_bundle)
    yield engine, tokenizer
    engine.close()


@pytest.fixture(scope="module")
def exact(exact_bundle: Path) -> Iterator[tuple[Engine, Tokenizer]]:
    engine, tokenizer = open_engine(exact_bundle)
    yield engine, tokenizer
    engine.close()


def answer(inbox: SimpleQueue[Chunk | Exception]) -> str:
    text = ""
    while True:
        chunk = inbox.get(timeout=120)
        if isinstance(chunk, Exception):
            raise chunk
        text += chunk.text
        if chunk.done_reason:
            return text


def ask(engine: Engine, tokenizer: Tokenizer, prompts: tuple[str, ...], temperature: float) -> list[str]:
    """The answers to prompts that are asked at the same time."""
    inboxes = []
    for prompt in prompts:
        inboxes.append(SimpleQueue[Chunk | Exception]())
        sampling = SamplingParams(temperature=temperature, seed=100 + len(prompt), num_predict=32)
        engine.submit(Request(tuple(tokenizer.encode(prompt, add_bos=True)), sampling, 1024), inboxes[-1].put)
    return [answer(inbox) for inbox in inboxes]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_fp32_answers_are_the_same_alone_and_together(full: tuple[Engine, Tokenizer], temperature: float) -> None:
    alone = [ask(*full, (prompt,), temperature)[0] for prompt in PROMPTS]
    assert all(alone)
    assert ask(*full, PROMPTS, temperature) == alone


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_quantised_answers_repeat_for_one_user(exact: tuple[Engine, Tokenizer], temperature: float) -> None:
    """Reuse of a cached prompt does not change the answer. (In company it may: one row has a kernel of its own.)"""
    for prompt in PROMPTS[:4]:
        first = ask(*exact, (prompt,), temperature)
        assert ask(*exact, (prompt,), temperature) == first


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_fp32_answers_are_the_same_with_drafts(full: tuple[Engine, Tokenizer], temperature: float) -> None:
    engine, tokenizer = full
    text = ENGLISH.read_text(encoding="utf-8")[:600]
    accepted = 0
    for prompt in (f"{text}\n\nOnce more:\n\n{text[:60]}", *PROMPTS[:4]):
        tokens = tuple(tokenizer.encode(prompt, add_bos=True))
        asked = Request(tokens, SamplingParams(temperature=temperature, seed=7, num_predict=64), 1024)
        answers: list[str] = []
        hint: tuple[int, ...] = ()
        for times in (None, cheap_drafts()):
            chunks, totals, hint = run_alone(
                engine.backend, asked, times=times, vocabulary=tokenizer, eos=(2,), hint=hint
            )
            answers.append("".join(chunk.text for chunk in chunks))
        assert answers[0] == answers[1]
        accepted += totals.accepted
    assert accepted > 50


def test_quality_holds_one_token_at_a_time(exact_bundle: Path) -> None:
    """Decoding runs other kernels than prefill does; the text's likelihood must not suffer from them.

    Both round activations to 8 bits, each in its own way: over so many tokens, their difference has a standard error of
    0.0023 (docs/performance.md).
    """
    bundle = read_description(exact_bundle)
    backend = OrtBackend(exact_bundle, bundle, slots=1, provider=providers.CPU, threads=0)
    ids = Tokenizer.load(exact_bundle, bundle).encode(ENGLISH.read_text(encoding="utf-8"), add_bos=False)
    prefill, decode = [], []
    for start in range(0, 4 * WINDOW_TOKENS, WINDOW_TOKENS):
        window = tuple(ids[start : start + WINDOW_TOKENS])
        together = backend.run([Row(0, 0, window[:-1], WINDOW_TOKENS - 1)])[0]
        for at, (token, following) in enumerate(itertools.pairwise(window)):
            prefill.append(nll(together[at], following))
            decode.append(nll(backend.run([Row(0, at, (token,))])[0][0], following))
    backend.close()
    assert len(decode) == 2044
    assert np.mean(prefill) == pytest.approx(3.1763, abs=0.005)  # the fp32 graph's
    assert np.mean(decode) == pytest.approx(np.mean(prefill), abs=0.005)


def nll(logits: np.ndarray, token: int) -> float:
    """Nats that a token costs, of logits [vocabulary]."""
    logits = logits.astype(np.float64)
    return float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[token])
