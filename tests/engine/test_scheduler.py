"""How much of a prompt a step reads."""

from __future__ import annotations

import pytest

from appliance.engine.backend import Row
from appliance.engine.scheduler import FIRST_CHUNK_TOKENS, LEAST_CHUNK_TOKENS, Scheduler


def chunk(tokens: int, past: int = 0) -> list[Row]:
    return [Row(0, past, (1,) * tokens, logits=0)]


def test_the_first_chunk_is_small_until_the_speed_is_known() -> None:
    assert Scheduler(512, 0.2).chunk(0, alone=True) == FIRST_CHUNK_TOKENS
    assert Scheduler(32, 0.2).chunk(0, alone=True) == 32


def test_a_chunk_takes_about_the_time_of_a_step() -> None:
    scheduler = Scheduler(512, 0.2)
    scheduler.observe(chunk(150), 0.15)
    assert scheduler.chunk(0, alone=False) in (199, 200)
    assert scheduler.chunk(0, alone=True) == 512


def test_a_step_has_room_for_the_decoding_behind_the_chunk() -> None:
    scheduler = Scheduler(512, 0.2)
    scheduler.observe(chunk(150), 0.15)
    scheduler.observe([Row(slot, 9, (1,)) for slot in range(4)], 0.05)
    assert scheduler.chunk(0, alone=False) in (149, 150)
    scheduler.observe([Row(slot, 9, (1,)) for slot in range(4)], 5.0)
    assert scheduler.chunk(0, alone=False) in (99, 100), "however slow decoding is, a prompt gets on"


def test_chunks_shrink_as_the_prompt_grows_deeper() -> None:
    scheduler = Scheduler(512, 0.2)
    past = 0
    for _ in range(40):
        tokens = scheduler.chunk(past, alone=False)
        seconds = tokens * (0.0005 + 0.0000005 * (past + tokens / 2))
        assert seconds < 0.21, (past, tokens)
        scheduler.observe(chunk(tokens, past), seconds)
        past += tokens
    assert past > 4000
    assert scheduler.chunk(past, alone=False) < 100
    assert scheduler.chunk(0, alone=False) <= 200, "nothing is known of long chunks"


def test_chunks_grow_step_by_step() -> None:
    scheduler = Scheduler(512, 0.2)
    scheduler.observe(chunk(64), 0.001)
    assert scheduler.chunk(0, alone=False) == 128


def test_a_slow_machine_reads_little_at_a_time_but_never_nothing() -> None:
    scheduler = Scheduler(512, 0.2)
    for _ in range(50):
        scheduler.observe(chunk(16), 4.0)
    assert scheduler.chunk(0, alone=False) == LEAST_CHUNK_TOKENS


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_speed_follows_the_machine_and_ignores_scraps(factor: float) -> None:
    scheduler = Scheduler(4096, 0.1)
    scheduler.observe(chunk(100), 0.1)
    before = scheduler.chunk(0, alone=False)
    scheduler.observe(chunk(2), 0.0)
    assert scheduler.chunk(0, alone=False) == before
    for _ in range(60):
        scheduler.observe(chunk(100), 0.1 * factor)
    assert scheduler.chunk(0, alone=False) == pytest.approx(100 / factor, rel=0.02)
