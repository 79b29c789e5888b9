"""Models from other machines and to them, as the service offers it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from appliance.config import Settings
from appliance.core import CreateRequest, Progress, TransferRequest
from appliance.errors import Forbidden
from appliance.inspection import advice
from appliance.store.names import on_hub
from appliance.store.store import Store

if TYPE_CHECKING:
    from appliance.registry.exchange import Exchange

Create = Callable[[CreateRequest], AsyncGenerator[Progress, None]]
"""Makes a model of files that are in the store."""


class Transfers:
    """Pulls and pushes of one store. Use from one event loop, and close it.

    `api_version` is the version of Ollama that registries are told.
    """

    def __init__(self, settings: Settings, store: Store, api_version: str, create: Create) -> None:
        self._settings = settings
        self._store = store
        self._api_version = api_version
        self._create = create
        self._advise = partial(advice, settings)
        self._opened: Exchange | None = None

    def pull(self, request: TransferRequest) -> AsyncGenerator[Progress, None]:
        """Fetch a model from where its name says. Closing the generator leaves what has come for the next time."""
        if on_hub(request.model):
            return self._pull_files(request)
        return self._exchange().pull(request, self._advise)

    async def pull_source(self, source: str) -> AsyncGenerator[Progress, None]:
        """Fetch the model that another is made of. `success` is left for that one to say."""
        try:
            async with aclosing(self.pull(TransferRequest(source))) as steps:
                async for progress in steps:
                    if progress.status != "success":
                        yield progress
        except Forbidden as error:
            raise Forbidden(f"'{source}' is not installed, and {error}") from error

    def push(self, request: TransferRequest) -> AsyncGenerator[Progress, None]:
        """Send a model to the registry that its name says. Closing the generator ends it."""
        return self._exchange().push(request)

    async def close(self) -> None:
        """Close every connection."""
        if self._opened:
            await self._opened.close()

    async def _pull_files(self, request: TransferRequest) -> AsyncGenerator[Progress, None]:
        """Fetch the files of a model of the Hugging Face Hub, and make the model of them."""
        exchange = self._exchange()
        from appliance.registry.hub_pull import Fetched

        fetched = Fetched()
        self._store.protect(fetched)
        try:
            async with aclosing(exchange.fetch_files(request, fetched, self._advise)) as steps:
                async for progress in steps:
                    yield progress
            wanted = CreateRequest(request.model, files=fetched.files, quantize=fetched.quantize)
            async with aclosing(self._create(wanted)) as steps:
                async for progress in steps:
                    yield progress
        finally:
            self._store.release(fetched)

    def _exchange(self) -> Exchange:
        if not self._opened:
            from appliance.registry.exchange import Exchange  # with httpx: much memory for what most servers never do

            self._opened = Exchange(self._settings, self._store, self._api_version)
        return self._opened
