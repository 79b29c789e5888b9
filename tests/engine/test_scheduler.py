"""How much of a prompt a step reads."""

from __future__ import annotations

from appliance.engine.scheduler import FIRST_CHUNK_TOKENS, LEAST_CHUNK_TOKENS, Scheduler


def test_the_first_chunk_is_small_until_the_speed_is_known() -> None:
    assert Scheduler(512, 0.2).chunk(alone=True) == FIRST_CHUNK_TOKENS
    assert Scheduler(32, 0.2).chunk(alone=True) == 32


def test_a_chunk_takes_about_the_time_of_a_step() -> None:
    scheduler = Scheduler(512, 0.2)
    scheduler.observe(tokens=64, seconds=0.064)
    assert scheduler.chunk(alone=False) == 200
    assert scheduler.chunk(alone=True) == 512


def test_a_slow_machine_reads_little_at_a_time_but_never_nothing() -> None:
    scheduler = Scheduler(512, 0.2)
    for _ in range(50):
        scheduler.observe(tokens=16, seconds=4.0)
    assert scheduler.chunk(alone=False) == LEAST_CHUNK_TOKENS


def test_the_speed_follows_the_machine_and_ignores_scraps() -> None:
    scheduler = Scheduler(4096, 0.1)
    scheduler.observe(tokens=100, seconds=0.1)
    before = scheduler.chunk(alone=False)
    scheduler.observe(tokens=2, seconds=1.0)
    assert scheduler.chunk(alone=False) == before
    for _ in range(30):
        scheduler.observe(tokens=100, seconds=0.2)
    assert scheduler.chunk(alone=False) in (49, 50)
