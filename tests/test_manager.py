"""Loaded models: sharing, eviction, memory, keep-alive, and clients that leave while a model loads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle import Bundle
from appliance.config import Settings
from appliance.conversion import Converter
from appliance.core import CreateRequest
from appliance.engine import providers
from appliance.errors import EngineStopped, NotEnoughMemory, ServerBusy
from appliance.manager import Manager
from appliance.memory import Grant, demand, grant, without_cache_bytes
from appliance.options import Options, merge
from appliance.runner import DecoderRunner
from appliance.store.create import assemble, commit
from appliance.store.store import Store, StoredModel
from tests.store.conftest import add_file
from tests.tiny_model import write_tiny_gguf

NAMES = ("a", "b", "c")
Scenario = Callable[["World"], Coroutine[Any, Any, None]]


class World:
    """A store of three tiny models and a manager over it."""

    def __init__(self, root: Path, settings: Settings) -> None:
        self.store = Store(root)
        self.manager = Manager(settings, Converter())

    def model(self, name: str) -> StoredModel:
        return self.store.model(name)

    async def use(self, name: str, *, keep_alive_s: float | None = None, **options: Any) -> DecoderRunner:
        """Load (or find) a model and let go of it again."""
        async with self.manager.lease(self.model(name), chosen(**options), keep_alive_s) as runner:
            assert isinstance(runner, DecoderRunner)
            return runner

    @property
    def loaded(self) -> set[str]:
        return {runner.model.name.model for runner in self.manager.runners}


def chosen(**options: Any) -> Options:
    return merge({}, options, logprobs=False, top=0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    store = Store(folder / "models")
    for seed, name in enumerate(NAMES):
        gguf = write_tiny_gguf(folder / f"{name}.gguf", seed=seed)
        digest = add_file(store, gguf)
        install(store, CreateRequest(name, files={"x.gguf": digest}))
    store.copy("a", "alias")
    install(store, CreateRequest("full", source="a", parameters={"recipe": "fp32"}))
    return folder / "models"


def install(store: Store, request: CreateRequest) -> None:
    """Create a model without converting it."""
    steps = assemble(store, request)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        list(commit(store, end.value))


@pytest.fixture
def play(root: Path) -> Callable[..., None]:
    """Run a scenario in a world with the given settings."""

    def run(scenario: Scenario, **settings: Any) -> None:
        async def main() -> None:
            world = World(root, replace(Settings(models=root), threads=1, **settings))
            try:
                await asyncio.wait_for(scenario(world), 60)
            finally:
                await world.manager.close()

        asyncio.run(main())

    return run


Play = Callable[..., None]


def test_names_that_share_weights_share_a_runner(play: Play) -> None:
    async def scenario(world: World) -> None:
        first = await world.use("a")
        assert await world.use("alias") is first
        assert world.loaded == {"alias"}, "the last name used is shown"

    play(scenario)


def test_names_that_share_weights_but_no_recipe_are_loaded_side_by_side(play: Play) -> None:
    async def scenario(world: World) -> None:
        first, second = await world.use("a"), await world.use("full")
        assert (first.bundle.recipe, second.bundle.recipe) == ("exact", "fp32")
        assert first.folder.parent == second.folder.parent
        assert await world.use("a") is first
        await world.manager.unload(world.model("full"))
        assert world.loaded == {"a"}

    play(scenario)


def test_the_setting_names_the_recipe_of_all_other_models(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def scenario(world: World) -> None:
        assert (await world.use("b")).bundle.recipe == "compact"
        assert (await world.use("full")).bundle.recipe == "fp32"

    play(scenario, recipe="compact")
    assert "b:latest: recipe compact, KV cache f32: chosen by default" in caplog.text
    assert "full:latest: recipe fp32, KV cache f32: chosen by the model's parameter" in caplog.text


@pytest.mark.spec(32)
def test_unloading_what_was_never_loaded_is_nothing(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.manager.unload(world.model("a"))
        assert not world.loaded

    play(scenario)


@pytest.mark.parametrize(
    ("setting", "busy", "spins"),
    [("auto", False, True), ("auto", True, False), ("on", True, True), ("off", False, False)],
)
def test_threads_spin_unless_others_need_the_processors(
    play: Play, monkeypatch: pytest.MonkeyPatch, setting: str, busy: bool, spins: bool
) -> None:
    seen: list[bool] = []
    monkeypatch.setattr("appliance.loading.contended", lambda *figures: busy)
    session_options = providers.session_options
    monkeypatch.setattr(
        "appliance.engine.ort.session_options",
        lambda provider, threads, spin: (seen.append(spin), session_options(provider, threads, spin))[1],
    )

    async def scenario(world: World) -> None:
        await world.use("a")

    play(scenario, spinning=setting)
    assert seen == [spins]


def test_requests_at_once_load_once(play: Play) -> None:
    async def scenario(world: World) -> None:
        runners = await asyncio.gather(*(world.use("a") for _ in range(8)))
        assert len(set(map(id, runners))) == 1

    play(scenario)


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


def test_a_client_cannot_have_more_threads_than_there_are_cores(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)

    async def scenario(world: World) -> None:
        for wanted, given in ((10**9, 3), (2, 2), (-5, 1)):
            assert (await world.use("a", num_thread=wanted)).load_options.threads == given

    play(scenario)


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


@pytest.mark.spec(91)
def test_other_load_options_load_again_and_num_ctx_does_not(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)

    async def scenario(world: World) -> None:
        first = await world.use("a")
        assert await world.use("a", num_ctx=64) is first
        second = await world.use("a", num_thread=2)
        assert second is not first
        assert not first.engine.alive
        assert world.loaded == {"a"}

    play(scenario)


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


LAME = replace(providers.CUDA, name="NoSuchExecutionProvider")
DISGUISED = replace(providers.CUDA, name="CPUExecutionProvider", device="cpu")
"""CUDA's place taken by the CPU provider: the graph for CUDA runs, in float16."""


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_cannot_run_the_model_is_passed_over_once_and_aloud(
    play: Play, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("appliance.manager.usable", lambda setting: (LAME, providers.CPU))
    monkeypatch.setattr("appliance.engine.ort.candidates", lambda name: [LAME if name == "cuda" else providers.CPU])

    async def scenario(world: World) -> None:
        runner = await world.use("a")
        assert (runner.provider, runner.bundle.target, runner.folder.name) == ("CPU", "cpu", "exact")
        assert "CUDA cannot run a:latest, trying the next: ONNX Runtime cannot load the graph" in caplog.text
        caplog.clear()
        assert await world.use("a") is runner
        assert not caplog.records
        await world.manager.unload(world.model("a"))
        assert not world.loaded

    play(scenario)


def test_an_accelerator_gets_the_graph_that_is_made_for_it(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.manager.usable", lambda setting: (DISGUISED,))
    monkeypatch.setattr("appliance.engine.ort.candidates", lambda setting: [DISGUISED])
    monkeypatch.setattr(providers, "CPU", DISGUISED)  # so that it may fall back on itself

    async def scenario(world: World) -> None:
        runner = await world.use("a")
        assert (runner.bundle.target, runner.bundle.kv_dtype, runner.folder.name) == ("cuda", "float16", "exact-cuda")
        assert await world.use("a") is runner

    play(scenario)
    monkeypatch.undo()

    async def on_the_cpu(world: World) -> None:
        assert (await world.use("a", num_gpu=0)).bundle.target == "cpu"

    play(on_the_cpu)
