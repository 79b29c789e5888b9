"""Which requests share a loaded model, and on which execution provider it runs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from appliance.engine import providers
from tests.manager.world import Play, World

LAME = replace(providers.CUDA, name="NoSuchExecutionProvider")
DISGUISED = replace(providers.CUDA, name="CPUExecutionProvider", device="cpu")
"""CUDA's place taken by the CPU provider: the graph for CUDA runs, in float16."""


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


def test_a_client_cannot_have_more_threads_than_there_are_cores(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)

    async def scenario(world: World) -> None:
        for wanted, given in ((10**9, 3), (2, 2), (-5, 1)):
            assert (await world.use("a", num_thread=wanted)).load_options.threads == given

    play(scenario)


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
        assert runner.vram_bytes == runner.reserved_bytes > 0

    play(scenario)
    monkeypatch.undo()

    async def on_the_cpu(world: World) -> None:
        assert (await world.use("a", num_gpu=0)).bundle.target == "cpu"

    play(on_the_cpu)
