"""The prefix cache: from slot to slot, to host memory and back, and never more than is really there."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from appliance.bundle import read_description
from appliance.core import Chunk, Request, SamplingParams, Usage
from appliance.engine import providers
from appliance.engine.backend import Row
from appliance.engine.engine import Engine
from appliance.engine.ort import OrtBackend
from appliance.engine.prefix import MIN_GAIN_TOKENS, PrefixCache
from appliance.engine.prefix_store import Eviction
from appliance.engine.slots import SlotPool
from appliance.errors import RequestCancelled
from appliance.prompt.tokenizer import Tokenizer
from tests.engine.conftest import Client
from tests.engine.fakes import ScriptedBackend
from tests.tiny_model import write_tiny_bundle

Start = Callable[..., Engine]
SYSTEM = "You answer in rhymes, and never at length. "
TALES = [f"{name}, {'once upon a time ' * 3}" for name in ("Ann", "Bob", "Cid", "Dee", "Eve", "Fay")]


def digest(cache: list[int]) -> int:
    """A next token that depends on every token in the row, so that one wrong token shows."""
    value = 7
    for token in cache:
        value = (value * 31 + token) % 1_000_003
    return 65 + value % 26


def usage(client: Client) -> Usage:
    found = client.chunks()[-1].usage
    assert found is not None
    return found


def backend(slots: int = 2, **more: Any) -> ScriptedBackend:
    return ScriptedBackend(digest, slots=slots, capacity=256, **more)


def read_tokens(backend: ScriptedBackend, since: int = 0) -> int:
    """Prompt tokens that ran, in chunks of two and more."""
    return sum(len(row.tokens) for run in backend.runs[since:] for row in run if len(row.tokens) > 1)


def test_a_second_user_reads_only_its_own_part_while_the_first_still_runs(start: Start) -> None:
    gate = threading.Semaphore(0)
    model = backend(gate=gate)
    engine = start(model, chunk_tokens=64)
    first = Client(engine, SYSTEM + "Ann?", num_ctx=256, num_predict=30)
    gate.release(5)
    while len(model.runs) < 5:
        pass
    second = Client(engine, SYSTEM + "Bob?", num_ctx=256, num_predict=5)
    gate.release(1000)
    assert usage(second).cached_tokens == len(SYSTEM)
    assert model.copies[0] == (0, 1, len(SYSTEM))
    assert next(row.tokens for run in model.runs for row in run if row.slot == 1) == tuple(map(ord, "Bob?"))
    assert usage(first).generated_tokens == 30


def test_users_who_arrive_together_read_their_common_beginning_once(start: Start) -> None:
    gate = threading.Semaphore(0)
    model = backend(slots=4, gate=gate)
    engine = start(model, chunk_tokens=16)
    prompts = [SYSTEM + SYSTEM + SYSTEM + name for name in ("Ann?", "Bob?", "Cid?", "Dee?")]
    clients = [Client(engine, prompt, num_ctx=256, num_predict=3) for prompt in prompts]
    gate.release(10_000)
    texts = [client.chunks() for client in clients]
    total = len(prompts[0]) + 3 * 4
    assert read_tokens(model) <= total + 4 * MIN_GAIN_TOKENS
    cached = [chunks[-1].usage.cached_tokens for chunks in texts if chunks[-1].usage]
    assert sum(cached) == sum(map(len, prompts)) - read_tokens(model)
    plain = start(backend(slots=4), prefix_cache_bytes=0)
    for prompt, chunks in zip(prompts, texts, strict=True):
        assert "".join(chunk.text for chunk in chunks) == Client(plain, prompt, num_ctx=256, num_predict=3).text()


def test_an_overwritten_conversation_comes_back_from_memory(start: Start) -> None:
    model = backend()
    engine = start(model)
    for tale in TALES:
        Client(engine, tale, num_ctx=256, num_predict=2).chunks()
    found = usage(Client(engine, TALES[0], num_ctx=256, num_predict=2))
    assert model.restores
    assert found.cached_tokens == len(TALES[0]) - 2
    assert found.prompt_tokens == len(TALES[0])


def test_a_conversation_that_goes_on_leaves_memory_for_its_slot(start: Start) -> None:
    engine = start(backend())
    said = [tale + Client(engine, tale, num_ctx=256, num_predict=5).text() for tale in TALES]
    store = engine._prefixes.store
    assert len(list(store)) == len(TALES) - 2
    found = usage(Client(engine, said[0] + " And then?", num_ctx=256, num_predict=5))
    assert found.cached_tokens == len(said[0]) - 1, "all but the last token, which was sampled and never run"
    assert store.evictions == {Eviction.LIVE: 1}
    assert len(list(store)) == len(TALES) - 2, "another one made way in the slot"


def test_a_longer_prompt_leaves_the_conversation_it_begins_like_alone(start: Start) -> None:
    model = backend(slots=3)
    engine = start(model)
    Client(engine, SYSTEM + TALES[0], num_ctx=256, num_predict=2).chunks()
    assert usage(Client(engine, SYSTEM + TALES[1], num_ctx=256, num_predict=2)).cached_tokens == len(SYSTEM)
    assert usage(Client(engine, SYSTEM + TALES[0], num_ctx=256, num_predict=2)).cached_tokens > len(SYSTEM) + 40
    assert model.copies == [(0, 1, len(SYSTEM))]


def test_a_conversation_that_goes_on_stays_in_its_slot(start: Start) -> None:
    model = backend()
    engine = start(model)
    prompt = SYSTEM
    for _ in range(4):
        prompt += Client(engine, prompt, num_ctx=256, num_predict=5).text() + " and then? "
    assert not model.copies
    assert not model.restores
    assert {row.slot for run in model.runs for row in run} == {0}


def test_users_of_one_beginning_take_turns_in_one_row(start: Start) -> None:
    model = backend()
    engine = start(model, max_waiting=100)
    prompts = {
        name: SYSTEM + SYSTEM + f"{name} asks: where is the {name.lower()} tree?" for name in ("Oak", "Elm", "Fir")
    }
    plain = start(backend(slots=1), prefix_cache_bytes=0)
    for prompt in prompts.values():
        Client(engine, prompt, num_ctx=256, num_predict=20).chunks()
    assert not model.copies, "the common beginning stays where it is"
    assert {row.slot for run in model.runs for row in run} == {0}
    store = engine._prefixes.store
    assert [entry.start for entry in store] == [2 * len(SYSTEM)] * 2
    assert store.used_bytes < 2 * 60 * model.kv_bytes_per_token, "only what each said after it was put away"
    for prompt in prompts.values():
        client = Client(engine, prompt, num_ctx=256, num_predict=20)
        chunks = client.chunks()
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.cached_tokens == len(prompt) - 2
        assert "".join(chunk.text for chunk in chunks) == Client(plain, prompt, num_ctx=256, num_predict=20).text()
    assert not model.copies


def test_a_branch_whose_stem_was_put_away_too_comes_back_with_it(start: Start) -> None:
    model = backend(slots=1)
    engine = start(model)
    first, second = SYSTEM + "Where is the oak? " * 2, SYSTEM + "And the elm tree? "
    for prompt in (first, second, TALES[0]):
        Client(engine, prompt, num_ctx=256, num_predict=2).chunks()
    assert sorted(entry.start for entry in engine._prefixes.store) == [0, len(SYSTEM)]
    assert usage(Client(engine, first, num_ctx=256, num_predict=2)).cached_tokens == len(first) - 2


def test_a_few_tokens_are_read_again_rather_than_copied(start: Start) -> None:
    model = backend()
    engine = start(model)
    Client(engine, "a" * (MIN_GAIN_TOKENS - 1) + "b" * 40, num_ctx=256, num_predict=1).chunks()
    assert usage(Client(engine, "a" * (MIN_GAIN_TOKENS - 1) + "c" * 40, num_ctx=256, num_predict=2)).cached_tokens == 0
    assert not model.copies


@pytest.mark.parametrize("off", [{"can_copy": False}, {"prefix_cache_bytes": 0}])
def test_without_the_cache_prompts_reuse_only_their_own_slot(
    start: Start, off: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = backend(can_copy=off.pop("can_copy", True))
    with caplog.at_level("INFO"):
        engine = start(model, **off)
        for tale in TALES:
            Client(engine, tale, num_ctx=256, num_predict=2).chunks()
    assert usage(Client(engine, TALES[0], num_ctx=256, num_predict=2)).cached_tokens == 0
    assert usage(Client(engine, TALES[0], num_ctx=256, num_predict=2)).cached_tokens == len(TALES[0]) - 2
    assert caplog.text.count("not shared between slots") == (0 if model.can_copy else 1)


def test_a_shifted_slot_gives_only_what_it_kept(start: Start) -> None:
    model = backend()
    engine = start(model)
    prompt = SYSTEM[:40]
    shifted = Client(engine, prompt, num_ctx=48, num_keep=20, num_predict=40)
    assert usage(shifted).generated_tokens == 40
    second = Client(engine, prompt + "Who are you, and where is she?", num_ctx=256, num_predict=5)
    chunks = second.chunks()
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.cached_tokens == 20
    plain = start(backend(), prefix_cache_bytes=0)
    expected = Client(plain, prompt + "Who are you, and where is she?", num_ctx=256, num_predict=5).text()
    assert "".join(chunk.text for chunk in chunks) == expected


def test_whatever_happens_answers_are_those_of_an_empty_cache(start: Start) -> None:
    """Random conversations, branches, shifts and cancellations on few slots and little memory."""
    choose = random.Random(5)
    model = backend(slots=3)
    limit_bytes = 300 * model.kv_bytes_per_token
    engine = start(model, chunk_tokens=16, prefix_cache_bytes=limit_bytes, max_waiting=100)
    plain = start(backend(slots=1), chunk_tokens=16, prefix_cache_bytes=0)
    store = engine._prefixes.store
    told = [SYSTEM, *TALES]
    for _ in range(60):
        asked = []
        for _ in range(choose.randint(1, 5)):
            prompt = choose.choice(told)[: choose.randint(1, 150)] + choose.choice(TALES)[: choose.randint(1, 40)]
            sampling = {"num_ctx": 200, "num_predict": choose.randint(1, 30), "num_keep": choose.randint(0, 60)}
            if choose.random() < 0.3:
                sampling["num_ctx"] = len(prompt) + 5
            asked.append((prompt, sampling, Client(engine, prompt, **sampling)))
            if choose.random() < 0.2:
                asked[-1][2].ticket.cancel()
        for prompt, sampling, client in asked:
            try:
                text = client.text()
            except RequestCancelled:
                continue
            assert text == Client(plain, prompt, **sampling).text()
            told.append(prompt + text)
        assert store.used_bytes <= limit_bytes
    assert model.copies
    assert model.restores
    assert store.evictions[Eviction.LEAST_RECENTLY_USED]


def test_a_cancelled_prompt_leaves_what_it_read_and_nothing_else(start: Start) -> None:
    gate = threading.Semaphore(0)
    model = backend(gate=gate)
    engine = start(model, chunk_tokens=16)
    gone = Client(engine, SYSTEM * 3, num_ctx=256)
    gate.release(2)
    while len(model.runs) < 2:
        pass
    gone.ticket.cancel()
    gate.release(1000)
    with pytest.raises(RequestCancelled):
        gone.chunks()
    client = Client(engine, SYSTEM * 3, num_ctx=256, num_predict=4)
    chunks = client.chunks()
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.cached_tokens in (32, 48)  # the cancellation may meet the third chunk
    plain = start(backend(), prefix_cache_bytes=0)
    expected = Client(plain, SYSTEM * 3, num_ctx=256, num_predict=4).text()
    assert "".join(chunk.text for chunk in chunks) == expected


def test_only_what_fits_of_a_long_conversation_is_kept() -> None:
    model = backend(slots=1)
    pool = SlotPool(1)
    cache = PrefixCache(model, pool, 50 * model.kv_bytes_per_token)
    slot = cache.take([1] * 100)
    assert slot
    model.run([Row(0, 0, (1,) * 100)])
    slot.tokens[:] = [1] * 100
    pool.release(slot)
    assert cache.take([2] * 30)
    assert [len(entry.tokens) for entry in cache.store] == [50]
    assert cache.store.used_bytes == 50 * model.kv_bytes_per_token


class Tiny:
    """An engine on the tiny real model."""

    def __init__(self, folder: Path, **more: Any) -> None:
        bundle = read_description(folder)
        self.backend = OrtBackend(folder, bundle, slots=3, provider=providers.CPU, threads=1)
        self.tokenizer = Tokenizer.load(folder, bundle)
        self.engine = Engine(self.backend, self.tokenizer, eos=(), chunk_tokens=32, max_waiting=20, **more)

    def ask(self, prompt: str, temperature: float) -> SimpleQueue[Chunk | Exception]:
        inbox: SimpleQueue[Chunk | Exception] = SimpleQueue()
        sampling = SamplingParams(temperature=temperature, seed=3, num_predict=12)
        self.engine.submit(Request(tuple(self.tokenizer.encode(prompt, add_bos=True)), sampling, 512), inbox.put)
        return inbox


def answer(inbox: SimpleQueue[Chunk | Exception]) -> tuple[tuple[int, ...], Usage]:
    tokens: tuple[int, ...] = ()
    while True:
        chunk = inbox.get(timeout=60)
        assert isinstance(chunk, Chunk)
        tokens += chunk.tokens
        if chunk.usage:
            return tokens, chunk.usage


@pytest.fixture(scope="module", params=["fp32", "exact"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    write_tiny_bundle(folder, request.param)
    return folder


@pytest.fixture
def pair(bundle: Path) -> Iterator[tuple[Tiny, Tiny]]:
    """An engine with the prefix cache and one without."""
    pair = Tiny(bundle), Tiny(bundle, prefix_cache_bytes=0)
    yield pair
    for tiny in pair:
        tiny.engine.close()


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_real_model_answers_the_same_with_and_without_reuse(pair: tuple[Tiny, Tiny], temperature: float) -> None:
    shared, alone = pair
    reused = 0
    for prompt in [SYSTEM * 3 + tale for tale in TALES] + TALES + [SYSTEM * 3 + tale for tale in TALES]:
        tokens, found = answer(shared.ask(prompt, temperature))
        reused += found.cached_tokens
        for slot in alone.engine._slots.slots:
            slot.tokens.clear()  # forget everything
        expected, plain = answer(alone.ask(prompt, temperature))
        assert plain.cached_tokens == 0
        assert found.prompt_tokens == plain.prompt_tokens
        assert tokens == expected
    assert reused > 11 * len(SYSTEM) * 3


def test_a_copied_row_is_the_row_and_nothing_beyond(pair: tuple[Tiny, Tiny]) -> None:
    arena = pair[0].backend._arena
    random = np.random.default_rng(0)
    for view in arena._views:
        view[:] = random.integers(-9, 9, view.shape)
    before = [view.copy() for view in arena._views]
    arena.copy(0, 2, 5)
    saved = arena.save(1, 9)
    arena.restore(0, saved, 7)
    for view, old in zip(arena._views, before, strict=True):
        assert (view[2, :, :5] == old[0, :, :5]).all()
        assert (view[2, :, 5:] == old[2, :, 5:]).all()
        assert (view[0, :, :7] == old[1, :, :7]).all()
        assert (view[0, :, 7:] == old[0, :, 7:]).all()
        assert (view[1] == old[1]).all()
    assert saved.nbytes == 9 * pair[0].backend.kv_bytes_per_token
