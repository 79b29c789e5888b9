"""Memory decides what is loaded beside what, and with how many slots."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.bundle import Bundle
from appliance.config import Settings
from appliance.engine import providers
from appliance.engine.card import CardMemory
from appliance.engine.providers import Provider
from appliance.errors import NotEnoughMemory
from appliance.memory import Grant, demand, grant, without_cache_bytes
from tests.manager.world import Play, World, chosen


def test_the_longest_idle_model_makes_room(play: Play) -> None:
    async def scenario(world: World) -> None:
        for name in ("a", "b", "a", "c"):
            await world.use(name)
        assert world.loaded == {"a", "c"}

    play(scenario, max_loaded_models=2)


def test_a_busy_model_is_waited_for(play: Play) -> None:
    async def scenario(world: World) -> None:
        async with world.manager.lease(world.model("a"), chosen(), None):
            waiting = asyncio.create_task(world.use("b"))
            await asyncio.sleep(0.2)
            assert world.loaded == {"a"}
            assert not waiting.done()
        await waiting
        assert world.loaded == {"b"}

    play(scenario, max_loaded_models=1)


def test_memory_decides_how_many_slots_there_are(play: Play) -> None:
    async def scenario(world: World) -> None:
        runner = await world.use("a", num_ctx=512)
        slot = runner.bundle.kv_bytes_per_token * 512
        fixed = runner.reserved_bytes - 4 * slot
        play_budget.append(fixed + 2 * slot)

    play_budget: list[int] = []
    play(scenario, prefix_cache_bytes=0)

    async def tight(world: World) -> None:
        runner = await world.use("a", num_ctx=512)
        assert runner.engine.backend.slots == 2

    play(tight, memory_budget_bytes=play_budget[0])

    async def hopeless(world: World) -> None:
        with pytest.raises(NotEnoughMemory, match="requires more system memory"):
            await world.use("a", num_ctx=512)

    play(hopeless, memory_budget_bytes=10 * 2**20)


def test_an_encoder_wants_room_for_its_longest_text() -> None:
    bundle = Bundle("bert", 0, 6, 0, 32, 384, 9, 8192, None, (), False, "fp32", "", kind="encoder", heads=12)
    wanted = demand(Settings(models=Path("x"), num_parallel=3), bundle, 1000, 4096)
    scores = 12 * 4096**2 * 4
    assert 2 * scores < wanted.least - without_cache_bytes(1000) < 3 * scores
    assert grant(wanted, wanted.least) == Grant(slots=3, cache=0, reserved_bytes=wanted.least)


def test_a_model_that_can_never_fit_evicts_nothing(play: Play) -> None:
    sizes: list[int] = []

    async def measure(world: World) -> None:
        sizes.append((await world.use("a", num_ctx=4)).reserved_bytes)

    async def scenario(world: World) -> None:
        await world.use("a", num_ctx=4)
        with pytest.raises(NotEnoughMemory):
            await world.use("b", num_ctx=512)
        assert world.loaded == {"a"}

    play(measure, prefix_cache_bytes=0)
    play(scenario, memory_budget_bytes=sizes[0])


def test_the_shorter_keep_alive_makes_room(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.use("a", keep_alive_s=600)
        await world.use("b", keep_alive_s=60)
        await world.use("c")
        assert world.loaded == {"a", "c"}

    play(scenario, max_loaded_models=2)


def test_a_client_that_no_longer_wants_the_room_leaves_the_busy_model_usable(play: Play) -> None:
    async def scenario(world: World) -> None:
        async with world.manager.lease(world.model("a"), chosen(), None) as runner:
            waiting = asyncio.create_task(world.use("b"))
            await asyncio.sleep(0.2)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert await asyncio.wait_for(world.use("a"), 5) is runner

    play(scenario, max_loaded_models=1)


def test_a_longer_context_needs_its_memory_too(play: Play) -> None:
    async def scenario(world: World) -> None:
        runner = await world.use("a", num_ctx=128)
        before = runner.reserved_bytes
        slots = runner.engine.backend.slots * runner.bundle.kv_bytes_per_token
        assert world.manager.reserve(runner, chosen(num_ctx=256)) == 256
        assert runner.reserved_bytes == before + 128 * slots
        assert world.manager.reserve(runner, chosen(num_ctx=64)) == 64
        assert runner.reserved_bytes == before + 128 * slots
        world.manager._settings = replace(world.manager._settings, memory_budget_bytes=runner.reserved_bytes + 1)
        with pytest.raises(NotEnoughMemory):
            world.manager.reserve(runner, chosen(num_ctx=512))
        assert runner.context_length == 64

    play(scenario)


def test_the_prefix_cache_takes_what_memory_the_slots_leave(play: Play) -> None:
    reserved: list[int] = []

    async def roomy(world: World) -> None:
        reserved.append((await world.use("a", num_ctx=512)).reserved_bytes)

    play(roomy, prefix_cache_bytes=0)
    play(roomy, prefix_cache_bytes=2**20)
    assert reserved[1] == reserved[0] + 2**20

    async def tight(world: World) -> None:
        runner = await world.use("a", num_ctx=512)
        assert runner.engine.backend.slots == 4
        assert runner.reserved_bytes == reserved[0] + 1000

    play(tight, prefix_cache_bytes=2**20, memory_budget_bytes=reserved[0] + 1000)


def test_where_memory_is_taken_at_once_a_longer_context_loads_again(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.engine.ort.slot_tokens", lambda bundle, provider, context: context)

    async def scenario(world: World) -> None:
        first = await world.use("a", num_ctx=64)
        assert first.engine.backend.capacity == 64
        assert await world.use("a", num_ctx=32) is first
        second = await world.use("a", num_ctx=128)
        assert second.engine.backend.capacity == 128
        assert not first.engine.alive
        assert world.loaded == {"a"}

    play(scenario)


MACHINE = replace(providers.CUDA, name="CPUExecutionProvider", device="cpu")
"""A card that the CPU plays."""


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has models run on a card, if they can, with so many bytes free; its driver counts what is loaded."""
    monkeypatch.setattr(Provider, "on_card", property(lambda self: self.setting == "cuda"))
    monkeypatch.setattr("appliance.manager.usable", lambda setting: (MACHINE, providers.CPU))
    session_options = providers.session_options
    monkeypatch.setattr(
        "appliance.engine.ort.session_options", lambda _, threads, spin: session_options(providers.CPU, threads, spin)
    )
    monkeypatch.setattr("appliance.engine.ort.candidates", lambda name: [MACHINE if name == "cuda" else providers.CPU])

    def set_free(free: int) -> None:
        monkeypatch.setattr("appliance.manager.card_memory", lambda: CardMemory(10**12, free))

    return set_free


def test_a_card_has_a_budget_of_its_own(play: Play, card: Callable[[int], None]) -> None:
    async def scenario(world: World) -> None:
        card(10**12)
        runner = await world.use("a")
        assert (runner.provider, runner.on_card, runner.vram_bytes) == ("CUDA", True, runner.reserved_bytes)
        assert runner.reserved_bytes > world.manager._settings.memory_budget_bytes

    play(scenario, memory_budget_bytes=10 * 2**20)


def test_what_does_not_fit_the_card_runs_on_the_cpu(
    play: Play, card: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(world: World) -> None:
        card(2**20)
        runner = await world.use("a")
        assert (runner.provider, runner.on_card, runner.vram_bytes) == ("CPU", False, 0)
        assert "CUDA cannot run a:latest, trying the next: model requires more GPU memory" in caplog.text

    play(scenario)


def test_a_model_of_the_machines_memory_does_not_make_room_on_the_card(play: Play, card: Callable[[int], None]) -> None:
    async def scenario(world: World) -> None:
        card(2**20)
        await world.use("a")
        await world.use("b")
        card(10**12)
        await world.use("c")
        assert world.loaded == {"a", "b", "c"}
        card(2**20)  # the driver says that c took it all
        runner = await world.use("full")
        assert (runner.provider, world.loaded) == ("CPU", {"a", "b", "full"})

    play(scenario, max_loaded_models=9)
