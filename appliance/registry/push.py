"""A model of the store to a registry."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from appliance.core import Progress
from appliance.errors import InvalidName
from appliance.registry.client import Registry
from appliance.registry.download import Patience
from appliance.registry.downloads import TICK_S
from appliance.registry.transport import named_errors
from appliance.registry.upload import Upload
from appliance.store.blobs import hex_of
from appliance.store.manifests import MANIFEST_TYPE, Layer
from appliance.store.names import parse_name
from appliance.store.store import Store, StoredModel


async def push(
    store: Store, model: StoredModel, registry: Registry, patience: Patience
) -> AsyncGenerator[Progress, None]:
    """Send what the registry lacks of a model, and its manifest last. Closing the generator abandons it.

    Raises RegistryError, BlobNotFound.
    """
    raw = store.manifests.read(model.name)
    with named_errors(registry.remote.host):
        for layer in dict.fromkeys(model.manifest.parts):
            async with aclosing(_send(store, layer, registry, patience)) as steps:
                async for step in steps:
                    yield step
        yield Progress("pushing manifest")
        await registry.put_manifest(raw, json.loads(raw).get("mediaType") or MANIFEST_TYPE)
    yield Progress("success")


async def _send(store: Store, layer: Layer, registry: Registry, patience: Patience) -> AsyncGenerator[Progress, None]:
    status = f"pushing {hex_of(layer.digest)[:12]}"
    path = store.blobs.existing(layer.digest)
    if not await registry.has_blob(layer.digest):
        upload = Upload(registry, path, layer.digest, layer.size, patience)
        task = asyncio.create_task(upload.run(_repository(layer, registry)))
        try:
            while not task.done():
                yield Progress(status, layer.digest, layer.size, upload.completed)
                await asyncio.wait({task}, timeout=TICK_S)
            task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    yield Progress(status, layer.digest, layer.size, layer.size)


def _repository(layer: Layer, registry: Registry) -> str:
    """The repository of the same registry that a layer was taken from, "" if there is none."""
    try:
        source = parse_name(layer.source)
    except InvalidName:
        return ""
    own = registry.remote.name
    if source.host != own.host or (source.namespace, source.model) == (own.namespace, own.model):
        return ""
    return f"{source.namespace}/{source.model}"
