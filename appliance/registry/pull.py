"""A model from elsewhere into the store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

from appliance.core import Progress
from appliance.errors import CorruptManifest, RegistryError
from appliance.registry.client import Registry, RegistryBlob
from appliance.registry.download import Source
from appliance.registry.downloads import Downloads
from appliance.registry.partial import partial_bytes, partial_path
from appliance.registry.transport import named_errors
from appliance.stepping import finished
from appliance.store.blobs import hex_of
from appliance.store.manifests import Layer, Manifest, parse_manifest
from appliance.store.names import ModelName
from appliance.store.parts import parts_of
from appliance.store.store import Store

HEAD_BYTES = 32 << 20
"""So much of a GGUF file holds its header."""

Advise = Callable[[Path], Awaitable[str]]
"""What the user should know of a GGUF file, of which perhaps only the header is there; "" for nothing."""


class Pulled:
    """The blobs of a model that is on its way, which the store keeps meanwhile."""

    def __init__(self, manifest: Manifest) -> None:
        self.digests = manifest.digests


async def pull(
    store: Store, downloads: Downloads, registry: Registry, advise: Advise
) -> AsyncGenerator[Progress, None]:
    """Fetch a model from its registry and install it. Closing the generator leaves what has come for the next time.

    Raises RegistryError, NotEnoughDisk, Forbidden when offline.
    """
    registry.transport.check_online()
    name = registry.remote.name
    yield Progress("pulling manifest")
    try:
        with named_errors(name.host):
            raw = await registry.manifest()
    except RegistryError as error:
        raise RegistryError(f"pull model manifest: {error}") from error
    steps = install(store, downloads, name, raw, lambda layer: RegistryBlob(registry, layer.digest), advise)
    async with aclosing(steps):
        async for step in steps:
            yield step


async def install(
    store: Store,
    downloads: Downloads,
    name: ModelName,
    raw: bytes,
    source: Callable[[Layer], Source],
    advise: Advise,
) -> AsyncGenerator[Progress, None]:
    """Fetch what the store lacks of the model with the manifest `raw`, and let the model be seen when all is there."""
    manifest = parse(raw, name)
    pulled = Pulled(manifest)
    store.protect(pulled)
    try:
        missing = {layer.digest: layer.size for layer in manifest.parts if not store.blobs.has(layer.digest)}
        needed = sum(size - partial_bytes(store.blobs, digest) for digest, size in missing.items())
        store.blobs.space.require(needed)
        for layer in dict.fromkeys(manifest.parts):
            network = parts_of(manifest.layers)
            header = advise if network and network.single and layer in network.layers else None
            steps = fetch(store, downloads, layer, source(layer), header if layer.digest in missing else None)
            async with aclosing(steps):
                async for step in steps:
                    yield step
        yield Progress("verifying sha256 digest")  # each was, before it got its name
        yield Progress("writing manifest")
        freed = await finished(store.install, name, raw)
        if freed:
            yield Progress("removing unused layers")
            await finished(store.remove_unused, freed)
        yield Progress("success")
    finally:
        store.release(pulled)


async def fetch(
    store: Store, downloads: Downloads, layer: Layer, source: Source, advise: Advise | None
) -> AsyncGenerator[Progress, None]:
    """One layer, and as soon as its header is there what is to be said of it."""
    status = f"pulling {hex_of(layer.digest)[:12]}"
    async with aclosing(downloads.fetch(layer.digest, layer.size, source)) as steps:
        async for completed in steps:
            yield Progress(status, layer.digest, layer.size, completed)
            if advise and downloads.front(layer.digest) >= HEAD_BYTES:
                advice, advise = await advise(partial_path(store.blobs, layer.digest)), None
                if advice:
                    yield Progress(advice)
    if advise and (advice := await advise(store.blobs.path(layer.digest))):
        yield Progress(advice)


def parse(raw: bytes, name: ModelName) -> Manifest:
    """Read a manifest from elsewhere; raises RegistryError if it is none, or not that of a model."""
    try:
        manifest = parse_manifest(raw, name.short)
    except CorruptManifest as error:
        raise RegistryError(f"what {name.host} has as '{name.short}' is not a model's manifest") from error
    if not manifest.parts:
        raise RegistryError(f"what {name.host} has as '{name.short}' is a manifest without layers")
    kinds = {layer.kind for layer in manifest.layers}
    if kinds == {""}:
        raise RegistryError(
            f"what {name.host} has as '{name.short}' is not a model: it has no layers of Ollama's kinds"
        )
    if "tensor" in kinds and not parts_of(manifest.layers):
        raise RegistryError("this model requires MLX support, but the MLX runtime is not available")
    return manifest
