"""A store of tiny models with a manager over it, and scenarios in which they are used."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from appliance.config import Settings
from appliance.conversion import Converter
from appliance.core import CreateRequest
from appliance.manager import Manager
from appliance.options import Options, merge
from appliance.runner import DecoderRunner
from appliance.store.create import assemble, commit
from appliance.store.store import Store, StoredModel

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


def install(store: Store, request: CreateRequest) -> None:
    """Create a model without converting it."""
    steps = assemble(store, request)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        list(commit(store, end.value))


Play = Callable[..., None]
