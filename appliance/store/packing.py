"""Models out of the store as one archive, a tar that is the same for the same models:

SHA256SUMS                                        of all others, in their order, as sha256sum checks them
manifests/<host>/<namespace>/<model>/<tag>        as in the store
blobs/sha256-<hex>
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING

from appliance.errors import InvalidRequest, ModelFileError
from appliance.store.blobs import hex_of
from appliance.store.manifests import Layer, parse_manifest
from appliance.store.tar import Entry, end, header, padding

if TYPE_CHECKING:
    from appliance.store.store import Store

SUMS = "SHA256SUMS"
CHUNK_BYTES = 1 << 20


def blob_name(digest: str) -> str:
    """A blob's name in an archive, and in the store."""
    return f"blobs/sha256-{hex_of(digest)}"


class Packing:
    """Some models on their way out, whose blobs the store keeps meanwhile.

    Raises InvalidName, ModelNotFound, CorruptManifest, and BlobNotFound or ModelFileError where a model is not whole.
    """

    def __init__(self, store: Store, models: Sequence[str]) -> None:
        if not models:
            raise InvalidRequest("no model is named")
        self._store = store
        self._manifests: dict[str, bytes] = {}
        layers: dict[str, Layer] = {}
        with store.unchanged():
            for name in [store.model(model).name for model in models]:
                raw = store.manifests.read(name)
                self._manifests["/".join(("manifests", *name.parts))] = raw
                layers |= {layer.digest: layer for layer in parse_manifest(raw, name.short).parts}
            self.digests = set(layers)
            store.protect(self)
        self._layers = [layers[digest] for digest in sorted(layers)]
        self._manifests = dict(sorted(self._manifests.items()))
        for layer in self._layers:
            require_whole(store, layer)
        sums = [f"{hashlib.sha256(raw).hexdigest()}  {name}\n" for name, raw in self._manifests.items()]
        sums += [f"{hex_of(layer.digest)}  {blob_name(layer.digest)}\n" for layer in self._layers]
        self._texts = {SUMS: "".join(sums).encode(), **self._manifests}
        files = [Entry(name, len(raw)) for name, raw in self._texts.items()]
        files += [Entry(blob_name(layer.digest), layer.size) for layer in self._layers]
        entries = sum(len(header(file)) + file.size + len(padding(file.size)) for file in files)
        self._end = end(entries)
        self.size = entries + len(self._end)
        """Bytes of the whole archive."""

    def chunks(self) -> Generator[bytes, None, None]:
        """The archive, piece by piece. Raises ModelFileError where a blob is not what it was."""
        try:
            for name, raw in self._texts.items():
                yield header(Entry(name, len(raw))) + raw + padding(len(raw))
            for layer in self._layers:
                yield header(Entry(blob_name(layer.digest), layer.size))
                yield from self._blob(layer)
                yield padding(layer.size)
            yield self._end
        finally:
            self._store.release(self)

    def _blob(self, layer: Layer) -> Iterator[bytes]:
        hasher = hashlib.sha256()
        with self._store.blobs.existing(layer.digest).open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                hasher.update(chunk)
                yield chunk
        if hasher.hexdigest() != hex_of(layer.digest):
            raise ModelFileError(f"the blob {layer.digest} is damaged: `appliance verify` says how to mend it")


def require_whole(store: Store, layer: Layer) -> None:
    """Raise BlobNotFound if a layer's blob is not there, ModelFileError if it is not as long as it should be."""
    actual = store.blobs.existing(layer.digest).stat().st_size
    if actual != layer.size:
        raise ModelFileError(
            f"the blob {layer.digest} is damaged: it has {actual:,} bytes, not {layer.size:,}; "
            "`appliance verify` says how to mend it"
        )
