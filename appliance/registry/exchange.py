"""Models between this server's store and registries: what the service calls."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

from appliance.config import Settings
from appliance.core import Progress, TransferRequest
from appliance.errors import ApplianceError, InvalidName, InvalidRequest
from appliance.registry.auth import Authority
from appliance.registry.client import Registry, remote
from appliance.registry.download import Patience
from appliance.registry.downloads import Downloads
from appliance.registry.hub import Hub
from appliance.registry.hub_pull import Fetched, fetch_files
from appliance.registry.keys import KEY_FILE, sign
from appliance.registry.network import Network
from appliance.registry.pull import Advise, pull
from appliance.registry.push import push
from appliance.registry.transport import Transport, user_agent
from appliance.store.names import ModelName, parse_reference
from appliance.store.store import Store

PATIENCE = Patience()


class Exchange:
    """One store and the registries of this world. Use from one event loop, and close it.

    `api_version` is the version of Ollama that registries are told, `network` stands in for the real one.
    """

    def __init__(self, settings: Settings, store: Store, api_version: str, network: Network | None = None) -> None:
        self._settings = settings
        self._store = store
        self._authority = Authority(settings.registry_auth_file, partial(sign, settings.models.parent / KEY_FILE))
        self.transport = Transport(network or Network(settings.ca_file), user_agent(api_version), settings.offline)
        self.downloads = Downloads(store.blobs, PATIENCE)

    async def pull(self, request: TransferRequest, advise: Advise) -> AsyncGenerator[Progress, None]:
        """Fetch a model; the last progress is `success`. Closing the generator ends it.

        Raises InvalidName, InvalidRequest, RegistryError, NotEnoughDisk, Forbidden.
        """
        name = self._name(request.model)
        steps = pull(self._store, self.downloads, self._registry(request, name), advise)
        async with aclosing(steps):
            async for step in steps:
                yield step

    async def fetch_files(
        self, request: TransferRequest, fetched: Fetched, advise: Advise
    ) -> AsyncGenerator[Progress, None]:
        """Fetch the files of a model of the Hugging Face Hub into `fetched`. Closing the generator ends it.

        Raises InvalidName, RegistryError, NotEnoughDisk, Forbidden.
        """
        name = self._name(request.model)
        self.transport.check_online()
        hub = Hub(self.transport, self._settings.hf_endpoint, self._settings.hf_token, name)
        async with aclosing(fetch_files(self._store, self.downloads, hub, name, fetched, advise)) as steps:
            async for step in steps:
                yield step

    async def push(self, request: TransferRequest) -> AsyncGenerator[Progress, None]:
        """Send a model; the last progress is `success`. Closing the generator ends it.

        Raises InvalidRequest, ModelNotFound, RegistryError, Forbidden.
        """
        if not request.model:
            raise InvalidRequest("model is required")
        try:
            model = self._store.model(request.model)
            registry = self._registry(request, model.name)
        except ApplianceError as error:
            yield Progress("retrieving manifest")
            yield Progress("couldn't retrieve manifest")
            if isinstance(error, InvalidName):
                raise InvalidName(f"unqualified name: {request.model}") from error
            raise
        self.transport.check_online()
        yield Progress("retrieving manifest")
        async with aclosing(push(self._store, model, registry, PATIENCE)) as steps:
            async for step in steps:
                yield step

    async def close(self) -> None:
        """Close every connection."""
        await self.transport.aclose()

    def _name(self, reference: str) -> ModelName:
        try:
            return self._store.fold(parse_reference(reference))
        except InvalidName as error:
            raise InvalidName("invalid model name") from error

    def _registry(self, request: TransferRequest, name: ModelName) -> Registry:
        return Registry(self.transport, self._authority, remote(request.model, name, request.insecure))
