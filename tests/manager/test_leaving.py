"""Clients and models that leave: keep-alive, unloading, and requests that end while a model loads."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from appliance.errors import EngineStopped, ServerBusy
from appliance.manager import Manager
from tests.manager.world import Play, World, chosen


@pytest.mark.parametrize(("keep_alive_s", "stays"), [(0.0, False), (0.05, False), (float("inf"), True)])
def test_keep_alive_counts_from_the_last_use(play: Play, keep_alive_s: float, stays: bool) -> None:
    async def scenario(world: World) -> None:
        async with world.manager.lease(world.model("a"), chosen(), keep_alive_s):
            await asyncio.sleep(0.1)
            assert world.loaded == {"a"}, "never while in use"
        for _ in range(100):
            if not world.loaded:
                break
            await asyncio.sleep(0.01)
        assert bool(world.loaded) is stays

    play(scenario)


def test_unload_waits_for_requests(play: Play) -> None:
    async def scenario(world: World) -> None:
        async with world.manager.lease(world.model("a"), chosen(), None) as runner:
            await world.manager.unload(world.model("a"))
            assert runner.engine.alive
        await asyncio.sleep(0.2)
        assert not world.loaded

    play(scenario)


def test_a_dead_engine_is_replaced(play: Play) -> None:
    async def scenario(world: World) -> None:
        first = await world.use("a")
        await asyncio.to_thread(first.engine.close)
        assert (await world.use("a")).engine.alive

    play(scenario)


def test_a_client_that_leaves_while_the_model_loads_leaves_nothing_behind(play: Play) -> None:
    async def scenario(world: World) -> None:
        for delay_s in (0.0, 0.001, 0.01, 0.05):
            loading = asyncio.create_task(world.use("a"))
            await asyncio.sleep(delay_s)
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
        runner = await world.use("a")
        assert runner.active == 0
        assert (await world.use("a")) is runner

    play(scenario)


class SlowLoad:
    """Holds a manager's next loads up between `begun` and `go_on`."""

    def __init__(self, manager: Manager, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.begun, self.go_on, self.opened = threading.Event(), threading.Event(), threading.Event()
        self._open, self._error = manager._open, error
        monkeypatch.setattr(manager, "_open", self)

    def __call__(self, *args: Any) -> Any:
        self.begun.set()
        assert self.go_on.wait(30)
        if self._error:
            raise self._error
        opened = self._open(*args)
        self.opened.set()
        return opened


async def engines_end() -> bool:
    """Whether within a while no engine's thread is left."""
    for _ in range(500):
        if not any(thread.name.endswith(":latest") for thread in threading.enumerate()):
            return True
        await asyncio.sleep(0.01)
    return False


@pytest.mark.parametrize("times", [1, 2])
def test_what_was_opened_for_a_client_that_left_is_closed(
    play: Play, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    async def scenario(world: World) -> None:
        slow = SlowLoad(world.manager, monkeypatch)
        loading = asyncio.create_task(world.use("a"))
        await asyncio.to_thread(slow.begun.wait, 30)
        for _ in range(times):
            loading.cancel()
            await asyncio.sleep(0.01)
        slow.go_on.set()
        await asyncio.gather(loading, return_exceptions=True)
        assert loading.cancelled()
        assert await asyncio.to_thread(slow.opened.wait, 30)
        assert await engines_end()

    play(scenario)


def test_a_load_that_fails_for_a_client_that_left_stays_cancelled(
    play: Play, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(world: World) -> None:
        slow = SlowLoad(world.manager, monkeypatch, error=RuntimeError("no such graph"))
        loading = asyncio.create_task(world.use("a"))
        await asyncio.to_thread(slow.begun.wait, 30)
        loading.cancel()
        await asyncio.sleep(0.01)
        slow.go_on.set()
        await asyncio.gather(loading, return_exceptions=True)
        assert loading.cancelled()
        assert "no such graph" in caplog.text

    play(scenario)


def test_a_load_in_progress_at_close_leaves_nothing_behind(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        slow = SlowLoad(world.manager, monkeypatch)
        loading, queued = (asyncio.create_task(world.use(name)) for name in "ab")
        await asyncio.to_thread(slow.begun.wait, 30)
        await world.manager.close()
        slow.go_on.set()
        for task in (loading, queued):
            with pytest.raises(EngineStopped, match="shutting down"):
                await task
        assert not world.loaded
        assert await engines_end()

    play(scenario)


def test_an_unload_goes_on_when_its_client_leaves(play: Play) -> None:
    async def scenario(world: World) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        runner = await world.use("a")
        free = threading.Event()
        busy = asyncio.ensure_future(asyncio.to_thread(free.wait, 30))  # the one thread: closing must queue
        await asyncio.sleep(0)
        unloading = asyncio.create_task(world.manager.unload(world.model("a")))
        await asyncio.sleep(0.01)
        unloading.cancel()
        await asyncio.gather(unloading, return_exceptions=True)
        free.set()
        await busy
        await world.manager.close()
        assert not runner.engine.alive

    play(scenario)


def test_requests_for_a_loaded_model_pass_a_full_queue_of_loads(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        runner = await world.use("a")
        slow = SlowLoad(world.manager, monkeypatch)
        loading = asyncio.create_task(world.use("b"))
        await asyncio.to_thread(slow.begun.wait, 30)
        assert await world.use("a") is runner
        with pytest.raises(ServerBusy):
            await world.use("c")
        slow.go_on.set()
        await loading

    play(scenario, max_queue=1)


def test_pending_loads_are_bounded(play: Play) -> None:
    async def scenario(world: World) -> None:
        async with world.manager.lease(world.model("a"), chosen(), None):
            waiting = [asyncio.create_task(world.use("b")) for _ in range(2)]
            await asyncio.sleep(0.1)
            with pytest.raises(ServerBusy):
                await world.use("c")
        await asyncio.gather(*waiting)

    play(scenario, max_loaded_models=1, max_queue=2)


def test_nothing_loads_after_close(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.use("a")
        await world.manager.close()
        assert not world.loaded
        with pytest.raises(EngineStopped, match="shutting down"):
            await world.use("a")

    play(scenario)
