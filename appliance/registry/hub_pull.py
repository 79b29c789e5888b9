"""The files of a model from the Hugging Face Hub into the store."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from appliance.core import Progress
from appliance.errors import InvalidRequest, RegistryError
from appliance.registry.downloads import Downloads
from appliance.registry.hub import Commit, Hub, HubBlob, HubFile
from appliance.registry.hub_choice import choose
from appliance.registry.partial import partial_bytes
from appliance.registry.pull import Advise, fetch
from appliance.registry.transport import named_errors
from appliance.stepping import finished
from appliance.store.blobs import digest_of, hex_of
from appliance.store.manifests import Layer
from appliance.store.names import ModelName
from appliance.store.store import Store


@dataclass(eq=False)
class Fetched:
    """Files that are on their way or in the store, which keeps them meanwhile: digests by name."""

    files: dict[str, str] = field(default_factory=dict)
    quantize: str = ""
    expected: set[str] = field(default_factory=set)

    @property
    def digests(self) -> set[str]:
        """Every blob of it."""
        return self.expected | set(self.files.values())


async def fetch_files(
    store: Store, downloads: Downloads, hub: Hub, name: ModelName, fetched: Fetched, advise: Advise
) -> AsyncGenerator[Progress, None]:
    """Fetch the files that `name` means into `fetched`, which the caller protects.

    Closing the generator leaves what has come for the next time. Raises RegistryError, NotEnoughDisk.
    """
    yield Progress("pulling manifest")
    shown = f"{name.host}/{name.namespace}/{name.model}"
    with named_errors(hub.host):
        commit = await hub.commit()
    selection = choose(commit.files, name.tag, shown)
    fetched.quantize = selection.quantize
    large = [file for file in selection.files if file.sha256]
    fetched.expected = {_digest(file) for file in large}
    missing = {_digest(file): file.size for file in large if not store.blobs.has(_digest(file))}
    store.blobs.space.require(sum(size - partial_bytes(store.blobs, digest) for digest, size in missing.items()))
    for file in selection.files:
        if file.sha256:
            continue
        digest = await _small(store, hub, commit, file)
        fetched.files[file.path] = digest
        yield Progress(f"pulling {hex_of(digest)[:12]}", digest, file.size, file.size)
    for file in large:
        digest = _digest(file)
        advised = advise if len(large) == 1 and digest in missing and file.path.endswith(".gguf") else None
        steps = fetch(store, downloads, Layer("", digest, file.size), HubBlob(hub, commit, file), advised)
        async with aclosing(steps):
            async for step in steps:
                yield step
        fetched.files[file.path] = digest
    yield Progress("verifying sha256 digest")  # each was, before it got its name


async def _small(store: Store, hub: Hub, commit: Commit, file: HubFile) -> str:
    with named_errors(hub.host):
        data = await hub.small(commit, file)
    await finished(store.blobs.add, data)
    return digest_of(data)


def _digest(file: HubFile) -> str:
    digest = f"sha256:{file.sha256}"
    try:
        hex_of(digest)
    except InvalidRequest as error:
        raise RegistryError(f"{file.path[:100]} has no SHA-256 there but {file.sha256[:80]!r}") from error
    return digest
