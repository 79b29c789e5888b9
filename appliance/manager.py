"""Loaded models: load, share, keep alive, make room, unload.

All of it runs on the event loop; only loading and closing go to a thread. A runner is keyed by the folder of its
bundle, so names that share a file and its recipe share the runner.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncGenerator, Coroutine
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from appliance.bundle import ENCODER_TARGETS, TARGETS, Bundle, read_description
from appliance.choice import Choice, Choices
from appliance.config import Settings
from appliance.conversion import Converter
from appliance.engine.arena import DeviceMemory
from appliance.engine.card import card_memory
from appliance.engine.probe import usable
from appliance.engine.providers import Provider
from appliance.errors import ConversionFailed, EngineStopped, ModelFileError, NotEnoughMemory, ServerBusy
from appliance.loading import Plan, load_options, open_runner
from appliance.memory import Budget, Demand, Grant, card_budget, demand, grant, system_budget
from appliance.options import DEFAULT_CONTEXT_TOKENS, Options, context_tokens
from appliance.runner import LoadOptions, Runner
from appliance.store.store import StoredModel

log = logging.getLogger(__name__)

DEFAULT_LOADED_MODELS = 3


class Manager:
    """Owns the runners. Use from one event loop."""

    def __init__(self, settings: Settings, converter: Converter) -> None:
        self._settings = settings
        self._converter = converter
        self._runners: dict[Path, Runner] = {}
        self._choices = Choices(settings)
        self._open = partial(open_runner, settings)
        self._loading = asyncio.Lock()  # one load at a time
        self._pending = 0
        self._finishing: set[asyncio.Future[None]] = set()
        self._closed = False

    @property
    def runners(self) -> list[Runner]:
        """Loaded models, the one that stays longest first."""
        return sorted(self._runners.values(), key=lambda runner: runner.expires_at, reverse=True)

    @contextlib.asynccontextmanager
    async def lease(
        self, model: StoredModel, options: Options, keep_alive_s: float | None
    ) -> AsyncGenerator[Runner, None]:
        """Hold the model's runner, loading it first if need be.

        Raises ServerBusy, NotEnoughMemory, ModelFileError, ConversionFailed. When the last holder leaves, the
        keep-alive clock starts.
        """
        runner = await self._acquire(model, options)
        runner.model = model  # of the names that share the weights, the last one used is shown
        if keep_alive_s is not None:
            runner.keep_alive_s = keep_alive_s
        try:
            yield runner
        finally:
            self._release(runner)

    async def unload(self, model: StoredModel) -> None:
        """Unload now if idle, else when the running requests are done; nothing if not loaded."""
        choice = self._choices.made(model)
        for runner in self._loaded(choice) if choice else ():
            runner.keep_alive_s = 0
            if not runner.active:
                await self._close(runner)

    async def close(self) -> None:
        """Unload everything, ending what runs; nothing loads any more."""
        self._closed = True
        for runner in list(self._runners.values()):
            await self._close(runner)
        await asyncio.gather(*self._finishing)

    def choice(self, model: StoredModel) -> Choice:
        """The recipe, the KV cache type and the bundle's folder of a model. Raises InvalidOption, BlobNotFound."""
        return self._choices.of(model)

    def reserve(self, runner: Runner, options: Options) -> int:
        """The context length of a request on `runner`, in tokens, with the memory for it in every slot.

        Raises NotEnoughMemory when it is longer than any before it and no longer fits.
        """
        wanted = self._context_for(options, runner.bundle)
        needed = runner.bytes_for(wanted)
        if needed and needed > (left := self._budget(runner.on_card).left):
            raise NotEnoughMemory(runner.reserved_bytes + needed, runner.reserved_bytes + max(left, 0))
        runner.grow(wanted)
        return wanted

    def _context_for(self, options: Options, bundle: Bundle) -> int:
        default = self._settings.context_length or DEFAULT_CONTEXT_TOKENS
        return context_tokens(options.num_ctx, default, bundle.context_length)

    async def _acquire(self, model: StoredModel, options: Options) -> Runner:
        wanted = load_options(self._settings, options)
        if runner := self._usable(model, options, wanted):
            return self._hold(runner)
        if self._pending >= self._settings.max_queue:
            raise ServerBusy(self._settings.max_queue)
        self._pending += 1
        try:
            async with self._loading:
                if not (runner := self._usable(model, options, wanted)):
                    self._require_open()
                    runner = await self._load(model, options, wanted)
                return self._hold(runner)
        finally:
            self._pending -= 1

    def _require_open(self) -> None:
        if self._closed:
            raise EngineStopped("the server is shutting down")

    def _usable(self, model: StoredModel, options: Options, wanted: LoadOptions) -> Runner | None:
        for runner in self._loaded(self.choice(model)):
            fits = runner.load_options == wanted and runner.holds(self._context_for(options, runner.bundle))
            if fits and runner.alive and not runner.draining:
                return runner
        return None

    def _loaded(self, choice: Choice) -> list[Runner]:
        """What is loaded of a choice, on whichever provider."""
        folders = {choice.on(target).folder for target in TARGETS}
        return [runner for folder, runner in self._runners.items() if folder in folders]

    def _hold(self, runner: Runner) -> Runner:
        runner.active += 1
        runner.idle.clear()
        if runner.timer:
            runner.timer.cancel()
            runner.timer = None
        return runner

    def _release(self, runner: Runner) -> None:
        runner.active -= 1
        if runner.active:
            return
        runner.last_used = datetime.now(UTC)
        runner.idle.set()
        if not math.isinf(runner.keep_alive_s):
            loop = asyncio.get_running_loop()
            runner.timer = loop.call_later(max(runner.keep_alive_s, 0), self._expire, runner)

    def _expire(self, runner: Runner) -> None:
        runner.closing = asyncio.ensure_future(self._close_if_idle(runner))

    async def _close_if_idle(self, runner: Runner) -> None:
        if not runner.active:
            await self._close(runner)

    async def _close(self, runner: Runner) -> None:
        if self._runners.get(runner.folder) is runner:
            del self._runners[runner.folder]
        if runner.timer:
            runner.timer.cancel()
        await self._finish(asyncio.to_thread(runner.close))
        log.info("unloaded %s", runner.model.name.short)

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for `work`, which goes on to its end when the waiting is cancelled: else an engine would stay open."""
        task = asyncio.ensure_future(work)
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)
        await asyncio.shield(task)

    async def _load(self, model: StoredModel, options: Options, wanted: LoadOptions) -> Runner:
        """Load on the best execution provider that can run the model; the log says why a better one cannot."""
        *better, last = await asyncio.to_thread(usable, wanted.provider)
        for provider in better:
            try:
                return await self._load_on(provider, model, options, wanted)
            except (ModelFileError, ConversionFailed, NotEnoughMemory) as error:
                log.warning("%s cannot run %s, trying the next: %s", provider.label, model.name.short, error)
        return await self._load_on(last, model, options, wanted)

    async def _load_on(self, provider: Provider, model: StoredModel, options: Options, wanted: LoadOptions) -> Runner:
        choice = self.choice(model)
        for stale in self._loaded(choice):  # other load options, or its engine has died
            await self._drain(stale)
        choice = choice.on(target_of(model, provider))
        folder = choice.folder
        await self._convert(model, choice)
        bundle = await asyncio.to_thread(read_description, folder)
        context = self._context_for(options, bundle)
        size = sum(file.stat().st_size for file in folder.iterdir())
        needed = demand(self._settings, bundle, size, context, provider.on_card)
        granted = await self._make_room(needed, provider.on_card)
        runner = await self._open_whole(Plan(model, folder, bundle, wanted, context, granted, provider))
        self._runners[folder] = runner
        cache = f", KV cache {choice.kv}" if bundle.kind == "decoder" else ""
        log.info(
            "loaded %s: %s, recipe %s%s, %d slots of %d tokens",
            *(model.name.short, runner.provider, choice.recipe, cache, granted.slots, context),
        )
        return runner

    async def _convert(self, model: StoredModel, choice: Choice) -> None:
        """Make the bundle if it is not there. The load timeout counts from the last sign of progress."""
        limit = self._settings.load_timeout_s
        delay = None if math.isinf(limit) else limit
        source, adapter = await asyncio.to_thread(model.source), model.adapter()
        wanted = choice.recipe, choice.kv, choice.target
        ensure = self._converter.ensure(source, model.model_digest, choice.folder, *wanted, adapter)
        try:
            async with asyncio.timeout(delay) as timer, contextlib.aclosing(ensure) as progress:
                async for _ in progress:
                    if delay is not None:
                        timer.reschedule(asyncio.get_running_loop().time() + delay)
        except TimeoutError as error:
            raise ConversionFailed(f"timed out: converting the model made no progress for {limit:g} seconds") from error

    async def _open_whole(self, plan: Plan) -> Runner:
        """Open in a thread; when client or server go away meanwhile, what was opened is closed again."""
        opening = asyncio.ensure_future(asyncio.to_thread(self._open, plan))
        try:
            opened = await asyncio.shield(opening)
            self._require_open()
        except (asyncio.CancelledError, EngineStopped):
            await self._finish(discard(opening))
            raise
        return opened

    async def _make_room(self, wanted: Demand, on_card: bool) -> Grant:
        """Unload models until this one fits, idle ones and short keep-alives first. With as many slots as fit.

        Raises NotEnoughMemory, without unloading anything when that cannot help.
        """
        where = "GPU" if on_card else "system"
        if (whole := self._budget(on_card).whole) < wanted.least:
            raise NotEnoughMemory(wanted.least, whole, where)
        while loaded := self._in_the_way(wanted, on_card):
            victims = [runner for runner in loaded if not runner.active] or loaded
            await self._drain(min(victims, key=lambda runner: (runner.keep_alive_s, runner.last_used)))
        if (left := self._budget(on_card).left) < wanted.least:
            raise NotEnoughMemory(wanted.least, left, where)
        granted = grant(wanted, left)
        if granted.slots < wanted.slots:
            log.warning("memory allows %d of %d parallel requests", granted.slots, wanted.slots)
        return granted

    def _in_the_way(self, wanted: Demand, on_card: bool) -> list[Runner]:
        """The loaded models of which one must go."""
        loaded = list(self._runners.values())
        if len(loaded) >= (self._settings.max_loaded_models or DEFAULT_LOADED_MODELS):
            return loaded
        if self._budget(on_card).left < wanted.least:
            return [runner for runner in loaded if runner.on_card == on_card]
        return []

    def _budget(self, on_card: bool) -> Budget:
        """What models may take of the machine's memory, or of the card's, which its driver knows best."""
        if on_card and (card := card_memory()):
            return card_budget(card.total, card.free + DeviceMemory.spare())
        reserved = sum(runner.reserved_bytes for runner in self._runners.values() if runner.on_card == on_card)
        return system_budget(self._settings, reserved)

    async def _drain(self, runner: Runner) -> None:
        """Unload after the requests in progress; new ones wait for the next load."""
        runner.draining = True
        try:
            while runner.active:
                await runner.idle.wait()
        finally:  # the client that wanted the room may have left
            runner.draining = False
        await self._close(runner)


def target_of(model: StoredModel, provider: Provider) -> str:
    """What a model's bundle for this provider is made for: graphs of others are for all, embeddings not for each."""
    assert model.header
    assert model.parts
    targets = ENCODER_TARGETS if model.header.footprint.encodes else TARGETS
    as_it_is = model.parts.format == "onnx" or provider.setting not in targets
    return "cpu" if as_it_is else provider.setting


async def discard(opening: asyncio.Future[Runner]) -> None:
    """Close a runner when it has been opened; if it never is, the log says why."""
    try:
        runner = await opening
    except Exception as error:
        log.warning("a model that nobody waited for any more could not be loaded: %s", error)
    else:
        await asyncio.to_thread(runner.close)
