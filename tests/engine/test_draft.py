"""Drafts: guessed from what was said before, run only where they pay, and never heard in the answer."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.bundle import read_description
from appliance.core import Chunk, Request, SamplingParams
from appliance.engine import providers
from appliance.engine.constrain import Grammars
from appliance.engine.draft import (
    LEAST_GAIN,
    LONGEST_MATCH_TOKENS,
    MAX_DRAFT_TOKENS,
    NGRAM_TOKENS,
    Drafter,
    Guess,
    worthwhile,
)
from appliance.engine.engine import Engine
from appliance.engine.ort import OrtBackend
from appliance.errors import RequestCancelled
from appliance.prompt.tokenizer import Tokenizer
from tests.engine.conftest import Client
from tests.engine.fakes import EOS, DreamingBackend, ScriptedBackend, cheap_drafts, letters, run_alone
from tests.tiny_model import write_tiny_bundle

Start = Callable[..., Engine]
TOKENS = st.lists(st.integers(0, 3), max_size=60)
TEXT = st.text("abcd", min_size=1, max_size=12)


@given(TOKENS, st.integers(0, 10), st.integers(0, 59))
def test_a_guess_continues_the_last_occurrence(tokens: list[int], limit: int, known: int) -> None:
    drafter = Drafter(tokens[:known])
    for token in tokens[known:]:
        drafter.push(token)
    guess = drafter.guess(limit)
    places = [at for at in range(NGRAM_TOKENS, len(tokens)) if tokens[at - NGRAM_TOKENS : at] == tokens[-NGRAM_TOKENS:]]
    if not places or not limit:
        assert guess == Guess((), 0)
        return
    at = places[-1]
    matches = itertools.takewhile(lambda back: tokens[at - back] == tokens[-back], range(1, at + 1))
    assert guess.match == min(len(list(matches)), LONGEST_MATCH_TOKENS)
    going_on = tokens[at:]
    assert guess.tokens == tuple(itertools.islice(itertools.cycle(going_on), limit))


def test_chances_follow_what_guesses_were_right() -> None:
    right, wrong = Drafter([]), Drafter([])
    for turn in range(30):
        for token in (1, 2, 3):
            right.push(token)
        for token in (1, 2, 3, 5 + turn):
            wrong.push(token)
    for token in (1, 2, 3):
        right.push(token)
        wrong.push(token)
    assert right.chances(right.guess(3))[0] > 0.95
    assert wrong.chances(wrong.guess(3))[0] < 0.1
    fresh = Drafter([1, 2, 3, 1, 2]).chances(Guess((3, 1, 2), 2))
    assert fresh == sorted(fresh), "the longer the match, the likelier"


def test_drafts_run_only_where_they_promise_more_tokens_a_second() -> None:
    def linear(more: int) -> float:
        return 1.0 + more

    def flat(more: int) -> float:
        return 1.0 + 0.01 * more

    def usual(more: int) -> float:
        return 1.0 + 0.2 * more

    assert worthwhile([], flat) == 0
    assert worthwhile([1.0] * 8, linear) == 0
    assert worthwhile([1.0] * 8, usual) == 8
    assert worthwhile([0.02] * 8, flat) == 0, "too little to gain"
    assert worthwhile([0.9] * 8, flat) == 8
    assert worthwhile([0.8, 0.5, 0.1, 0.9], usual) == 2
    assert worthwhile([0.3] * 8, usual) == 0


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.01, 1), st.floats(0, 1))
def test_no_other_length_promises_more(chances: list[float], first: float, each: float) -> None:
    def rate(count: int) -> float:
        reached = list(itertools.accumulate(chances[:count], lambda left, right: left * right, initial=1.0))
        return sum(reached) / (first + each * count)

    count = worthwhile(chances, lambda more: first + each * more)
    best = max(range(len(chances) + 1), key=rate)
    if count:
        assert rate(count) == pytest.approx(rate(best))
    else:
        assert rate(best) <= rate(0) * LEAST_GAIN * (1 + 1e-9)


def request(prompt: str, *, num_ctx: int = 200, shift: bool = True, **sampling: Any) -> Request:
    params = SamplingParams(**{"temperature": 0.0, "num_predict": 60, "seed": 3, **sampling})
    return Request(letters(prompt), params, num_ctx=num_ctx, shift=shift)


def told(chunks: list[Chunk]) -> tuple[str, object, object, object]:
    """All that a client learns but the times."""
    usage = chunks[-1].usage
    assert usage
    logprobs = [entry for chunk in chunks for entry in chunk.logprobs]
    return "".join(chunk.text for chunk in chunks), chunks[-1].done_reason, usage.generated_tokens, logprobs


@settings(deadline=None, max_examples=200)
@given(
    prompt=TEXT,
    memory=st.integers(1, 3),
    temperature=st.sampled_from([0.0, 0.8]),
    seed=st.integers(0, 5),
    sampling=st.fixed_dictionaries(
        {},
        optional={
            "num_predict": st.integers(1, 40),
            "stop": st.lists(st.text("abcd", min_size=2, max_size=3), max_size=2).map(tuple),
            "repeat_penalty": st.just(1.3),
            "logprobs": st.just(True),
            "num_keep": st.integers(-1, 6),
        },
    ),
    num_ctx=st.sampled_from([16, 24, 200]),
    shift=st.booleans(),
)
def test_an_answer_is_the_same_with_and_without_drafts(
    prompt: str,
    memory: int,
    temperature: float,
    seed: int,
    sampling: dict[str, Any],
    num_ctx: int,
    shift: bool,
) -> None:
    backend = DreamingBackend("abcd", memory=memory, capacity=200)
    asked = request(prompt, num_ctx=num_ctx, shift=shift, temperature=temperature, seed=seed, **sampling)
    plain, _, tokens = run_alone(backend, asked)
    for hint in ((), tokens):
        drafted, totals, _ = run_alone(backend, asked, times=cheap_drafts(), hint=hint)
        assert told(drafted) == told(plain)
        assert totals.accepted <= totals.drafted


def alphabet_song(cache: list[int]) -> int:
    return 97 + (cache[-1] - 96) % 8


def test_right_drafts_save_runs_and_are_counted() -> None:
    backend = ScriptedBackend(alphabet_song, capacity=200)
    chunks, totals, _ = run_alone(backend, request("abcdefghab", num_predict=40), times=cheap_drafts())
    assert told(chunks)[0] == "cdefghab" * 5
    assert 30 < totals.accepted == totals.drafted
    assert len(backend.runs) < 8
    assert totals.generated == 40
    assert max(len(row.tokens) for run in backend.runs[1:] for row in run) == 1 + MAX_DRAFT_TOKENS


def test_the_slot_names_what_is_in_the_cache_when_an_answer_ends_inside_a_draft(start: Start) -> None:
    backend = ScriptedBackend(alphabet_song, capacity=200)
    engine = start(backend, chunk_tokens=64)
    first = Client(engine, "abcdefgh" * 3, num_predict=60, num_ctx=200, stop=("cdefg",)).chunks()
    assert first[-1].usage
    again = Client(engine, "abcdefgh" * 3 + "abcdefgh" * 2, num_predict=4, num_ctx=200).chunks()
    assert "".join(chunk.text for chunk in again) == "abcd"  # the backend checks the cache at every run


def test_nothing_is_drafted_while_others_wait_for_their_next_token(start: Start) -> None:
    gate = threading.Semaphore(0)
    backend = ScriptedBackend(alphabet_song, slots=3, capacity=200, gate=gate)
    engine = start(backend, chunk_tokens=64)
    clients = [Client(engine, "abcdefgh" * 2 + "abc"[:number], num_predict=50, num_ctx=200) for number in (1, 2, 3)]
    gate.release(1000)
    texts = [client.text() for client in clients]
    assert [len(text) for text in texts] == [50] * 3
    together = [run for run in backend.runs if len(run) > 1]
    assert together
    assert all(len(row.tokens) == 1 for run in together for row in run)


def test_a_switch_turns_drafts_off(start: Start) -> None:
    backend = ScriptedBackend(alphabet_song, capacity=200)
    engine = start(backend, chunk_tokens=64, speculate="off")
    Client(engine, "abcdefgh" * 3, num_predict=40, num_ctx=200).chunks()
    assert engine.stats().drafted_tokens == 0
    assert all(len(row.tokens) == 1 for run in backend.runs[1:] for row in run)


@pytest.mark.parametrize(
    ("setting", "temperature", "seed", "same", "drafted"),
    [
        ("auto", 0.0, -1, True, True),
        ("auto", 0.0, 0, True, True),
        ("auto", 0.8, 0, True, True),
        ("auto", 0.0, -1, False, False),  # quantised: the same text every time
        ("auto", 0.8, 0, False, False),
        ("auto", 0.8, -1, False, True),
        ("on", 0.0, -1, False, True),
        ("on", 0.0, 0, False, False),
        ("off", 0.8, -1, True, False),
    ],
)
def test_a_text_that_is_always_the_same_is_not_drafted_where_that_could_change_it(
    start: Start, setting: str, temperature: float, seed: int, same: bool, drafted: bool
) -> None:
    backend = ScriptedBackend(alphabet_song, capacity=2000)
    backend.same_in_any_width = same
    engine = start(backend, chunk_tokens=64, speculate=setting)
    options = {"temperature": temperature, "seed": seed}
    ticket = engine.submit(
        Request(letters("abcdefgh" * 3), SamplingParams(num_predict=40, **options), num_ctx=200), lambda chunk: None
    )
    assert ticket.sequence.drafting is drafted


@pytest.mark.parametrize("runs", range(1, 20, 3))
def test_cancelled_while_drafting_leaves_the_slot_right(start: Start, runs: int) -> None:
    gate = threading.Semaphore(runs)
    engine = start(ScriptedBackend(alphabet_song, slots=1, capacity=2000, gate=gate), chunk_tokens=64)
    gone = Client(engine, "abcdefgh" * 3, num_predict=1500, num_ctx=2000)
    gone.inbox.get(timeout=30)
    gone.ticket.cancel()
    gate.release(1000)
    with pytest.raises(RequestCancelled):
        gone.chunks()
    assert Client(engine, "abcdefgh" * 3 + "ab", num_predict=6, num_ctx=2000).text() == "cdefgh"


def test_an_end_token_is_never_drafted() -> None:
    def once(cache: list[int]) -> int:
        return EOS if len(cache) > 30 else alphabet_song(cache)

    backend = ScriptedBackend(once, capacity=200)
    prompt = (*letters("abcd"), EOS, *letters("abcd"), EOS, *letters("ab"))
    asked = Request(prompt, SamplingParams(temperature=0, num_predict=50), num_ctx=200)
    chunks, totals, _ = run_alone(backend, asked, times=cheap_drafts())
    assert told(chunks)[0] == "cdefghabcdefghabcdefg"[: 31 - len(prompt)]
    assert totals.drafted
    assert all(EOS not in row.tokens for run in backend.runs[1:] for row in run)


class Tiny:
    """A tiny model in float32 whose tokens are bytes."""

    def __init__(self, folder: Path) -> None:
        bundle = write_tiny_bundle(folder, "fp32")
        self.tokenizer = Tokenizer.load(folder, bundle)
        self.grammars = Grammars(self.tokenizer, bundle.vocab_size, bundle.eos_tokens)
        self.backend = OrtBackend(folder, read_description(folder), slots=1, provider=providers.CPU, threads=1)
        self.eos = bundle.eos_tokens

    def accepted(self, prompt: str, schema: Any = None, **sampling: Any) -> int:
        """Check that an answer is the same with drafts, some of which are right; tells how many."""
        tokens = tuple(self.tokenizer.encode(prompt, add_bos=True))
        params = SamplingParams(**{"num_predict": 400, **sampling})
        answers: list[Any] = []
        hint: tuple[int, ...] = ()
        accepted = 0
        for times in (None, cheap_drafts()):
            constraint = self.grammars.constraint(schema) if schema else None
            chunks, totals, hint = run_alone(
                self.backend,
                Request(tokens, params, 512, constraint=constraint),
                times=times,
                vocabulary=self.tokenizer,
                eos=self.eos,
                hint=hint,
            )
            answers.append(told(chunks)[:3])
            accepted = totals.accepted
        assert answers[0] == answers[1]
        if schema:
            jsonschema.validate(json.loads(answers[0][0]), schema)
        return accepted


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    tiny = Tiny(tmp_path_factory.mktemp("bundle") / "tiny")
    yield tiny
    tiny.backend.close()


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_real_graph_says_the_same_with_drafts(tiny: Tiny, temperature: float) -> None:
    prompt = "the hello in a the hello "
    assert sum(tiny.accepted(prompt + "x" * seed, seed=seed, temperature=temperature) for seed in range(6)) > 100


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_drafts_keep_to_the_grammar_beside_forced_tokens(tiny: Tiny, temperature: float) -> None:
    row = {
        "type": "object",
        "properties": {"hello": {"enum": ["in the", "in a", "x"]}, "the": {"type": "boolean"}},
        "required": ["hello", "the"],
    }
    schema = {"type": "array", "items": row, "minItems": 8, "maxItems": 8}
    assert sum(tiny.accepted("hello", schema, seed=seed, temperature=temperature) for seed in range(6)) > 20


def test_a_grammar_says_how_far_a_draft_may_go(tiny: Tiny) -> None:
    constraint = tiny.grammars.constraint({"enum": ["hello", "in"]})
    tokens = tiny.tokenizer.encode('"hexx', add_bos=False)
    assert tiny.tokenizer.encode('"', add_bos=False) == tokens[:1]
    reach = constraint.reach(tokens)
    assert 0 < reach < len(tokens)
    for token in tokens[:reach]:
        assert constraint.mask()[token]
        constraint.accept(token)
    assert not constraint.mask()[tokens[reach]]
