"""The adapter of a model in the making: a LoRA in one GGUF file, or a folder of PEFT's files to make one of."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from appliance.errors import InvalidRequest
from appliance.store.blobs import hex_of
from appliance.store.disk import make_folders, partial_path
from appliance.store.gguf_header import MAGIC, read_header
from appliance.store.manifests import Layer
from appliance.store.parts import SAFETENSORS, adapter_layer
from appliance.store.store import Store

ONLY_ONE = "only one adapter is currently supported"
CHUNK_BYTES = 1 << 20


def gguf_adapter(store: Store, files: Mapping[str, str]) -> Layer | None:
    """The layer of the adapter in these uploaded files, by name; None for PEFT's, which must be converted first.

    Raises BlobNotFound, InvalidRequest for several adapters and for files that are none, ModelFileError.
    """
    blobs = {name: store.blobs.existing(digest) for name, digest in files.items()}
    found = {digest for name, digest in files.items() if _head(blobs[name]) == MAGIC}
    weights = [name for name in files if name.endswith(SAFETENSORS)]
    if len(found) + len(weights) > 1:
        raise InvalidRequest(ONLY_ONE)
    if weights:
        return None
    if not found:
        unknown = not any(name.endswith(".gguf") for name in files)
        raise InvalidRequest("unknown type" if unknown else "supplied file was not in GGUF format")
    digest = f"sha256:{hex_of(found.pop())}"
    blob = store.blobs.existing(digest)
    if read_header(blob).metadata.get("general.type") != "adapter":
        raise InvalidRequest("the file given as an adapter is not one: its general.type is not 'adapter'")
    return adapter_layer(digest, blob.stat().st_size)


@contextlib.contextmanager
def peft_folder(store: Store, files: Mapping[str, str]) -> Iterator[Path]:
    """A folder of links to uploaded files, under their names, which is gone afterwards.

    Raises BlobNotFound, and NotEnoughDisk where an adapter made of them, and the layer that it becomes, have no room.
    """
    make_folders(store.derived)
    store.space.require(2 * sum(store.blobs.existing(digest).stat().st_size for digest in files.values()))
    folder = partial_path(store.derived, "adapter-")
    try:
        for name, digest in files.items():
            link = folder / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(store.blobs.existing(digest), link.parent))
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def add_converted(store: Store, path: Path) -> Layer:
    """Take a converted adapter into the store. Raises NotEnoughDisk."""
    size = path.stat().st_size
    with path.open("rb") as file, store.blobs.writer(length=size) as writer:
        while data := file.read(CHUNK_BYTES):
            writer.write(data)
        return adapter_layer(writer.commit(), size)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(MAGIC))
