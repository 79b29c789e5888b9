"""The store as a registry sees it: repositories `namespace/model` with tags, and the blobs of their models.

Only models that are whole can be read, and only blobs that one of the repository's models names.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.errors import BlobNotFound, CorruptManifest, ModelFileError, ModelNotFound
from appliance.store.manifests import MANIFEST_TYPE, Manifest, parse_manifest
from appliance.store.names import DEFAULT_HOST, ModelName
from appliance.store.packing import require_whole
from appliance.upkeep import SharedManifest

if TYPE_CHECKING:
    from appliance.store.store import Store

log = logging.getLogger(__name__)


class Library:
    """Reads one store for other machines. All of it blocks.

    A repository has the models of its name whatever host they came from; where two share a tag, the default host's
    is taken, or else the first by host.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def manifest(self, namespace: str, model: str, reference: str) -> SharedManifest:
        """The manifest with a tag or a digest; raises ModelNotFound, also for a model that is not whole."""
        for name, raw, manifest in self._models(namespace, model):
            digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
            if reference.lower() not in (name.tag.lower(), digest):
                continue
            try:
                for layer in manifest.parts:
                    require_whole(self._store, layer)
            except (BlobNotFound, ModelFileError) as error:
                log.warning("%s is not shared: %s", name.short, error)
                raise ModelNotFound(f"{name.short} is not whole on this server") from error
            return SharedManifest(raw, str(json.loads(raw).get("mediaType") or MANIFEST_TYPE), digest)
        raise ModelNotFound(f"{namespace}/{model}:{reference} is not on this server")

    def blob(self, namespace: str, model: str, digest: str) -> Path:
        """A blob of one of the repository's models; raises BlobNotFound."""
        for _, _, manifest in self._models(namespace, model):
            if digest in manifest.digests:
                return self._store.blobs.existing(digest)
        raise BlobNotFound(f"{namespace}/{model} has no blob {digest} on this server")

    def tags(self, namespace: str, model: str) -> Sequence[str]:
        """The repository's tags; raises ModelNotFound if it has none."""
        tags = sorted({name.tag for name, _, _ in self._models(namespace, model)})
        if not tags:
            raise ModelNotFound(f"{namespace}/{model} is not on this server")
        return tags

    def _models(self, namespace: str, model: str) -> Iterator[tuple[ModelName, bytes, Manifest]]:
        wanted = namespace.lower(), model.lower()
        names = [
            name for name in self._store.manifests.names() if (name.namespace.lower(), name.model.lower()) == wanted
        ]
        for name in sorted(names, key=lambda name: (name.host != DEFAULT_HOST, name.host)):
            try:
                raw = self._store.manifests.read(name)
                yield name, raw, parse_manifest(raw, name.short)
            except FileNotFoundError:  # deleted meanwhile
                continue
            except CorruptManifest as error:
                log.warning("%s", error)
