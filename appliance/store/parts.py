"""Which layers of a manifest are its network, and what they are together.

    adapter          a LoRA in a GGUF file, merged into the network
    model            a GGUF file, or with names the parts of a split one
    tensor json file a Hugging Face folder: safetensors files, JSON files, others; their names are paths in the folder
    onnx json file   a folder with ONNX graphs, their weights among the other files

Ollama's own models of tensor layers have one tensor in each, named after the tensor: those are not such a folder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from appliance.store.blobs import Blobs, digest_of, hex_of
from appliance.store.manifests import LAYER_TYPE, Layer

FOLDER_KINDS = ("tensor", "json", "file", "onnx")
ADAPTER = "adapter"
NETWORK_KINDS = (ADAPTER, "draft", *FOLDER_KINDS)
SAFETENSORS = ".safetensors"
ONNX = ".onnx"


@dataclass(frozen=True, slots=True)
class Parts:
    """The layers that make up one network, and that of a LoRA to merge into it. A single GGUF needs no name."""

    format: Literal["gguf", "safetensors", "onnx"]
    layers: tuple[Layer, ...]
    adapter: Layer | None = None

    @property
    def single(self) -> bool:
        """Whether one file is all."""
        return len(self.layers) == 1 and self.format == "gguf"

    @property
    def digest(self) -> str:
        """Names this network with its adapter, and the folder of its bundles."""
        return adapted_digest(self.base_digest, self.adapter.digest) if self.adapter else self.base_digest

    @property
    def base_digest(self) -> str:
        """Names the network without its adapter: a single file's own digest, or one over all parts."""
        if self.single:
            return self.layers[0].digest
        return combined({layer.name: layer.digest for layer in self.layers})

    def files(self, blobs: Blobs) -> dict[str, Path]:
        """Where the bytes of each part are; raises BlobNotFound."""
        return {layer.name: blobs.existing(layer.digest) for layer in self.layers}

    def source(self, blobs: Blobs, derived: Path) -> Path:
        """What to convert: the blob, or a folder of links to the blobs, made under `derived`. Raises BlobNotFound."""
        files = self.files(blobs)
        if self.single:
            return blobs.existing(self.base_digest)
        folder = derived / hex_of(self.digest) / f"sha256-{hex_of(self.base_digest)}"
        for name, blob in files.items():
            link = folder / name
            link.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):  # the same link, made before
                link.symlink_to(os.path.relpath(blob, link.parent))
        return folder

    def adapter_file(self, blobs: Blobs) -> Path | None:
        """Where the adapter is, None without one; raises BlobNotFound."""
        return blobs.existing(self.adapter.digest) if self.adapter else None


def parts_of(layers: Iterable[Layer]) -> Parts | None:
    """The network of a manifest's layers; None where they hold none that is known here."""
    layers = tuple(layers)
    models = tuple(layer for layer in layers if layer.kind == "model")
    adapter = next((layer for layer in layers if layer.kind == ADAPTER), None)
    if models:
        return Parts("gguf", models if _named(models) else models[:1], adapter)
    folder = tuple(layer for layer in layers if layer.kind in FOLDER_KINDS)
    weights = [layer for layer in folder if layer.kind == "tensor"]
    if weights and _named(folder) and all(layer.name.endswith(SAFETENSORS) for layer in weights):
        return Parts("safetensors", folder, adapter)
    if any(layer.kind == "onnx" for layer in folder) and _named(folder):
        return Parts("onnx", folder)  # made by others: nothing can be merged into it
    return None


def unread(layers: Iterable[Layer]) -> tuple[str, ...]:
    """The kinds of those layers that belong to a network but not to what `parts_of` makes of them."""
    layers = tuple(layers)
    parts = parts_of(layers)
    read = (*parts.layers, parts.adapter) if parts else ()
    return tuple(dict.fromkeys(layer.kind for layer in layers if layer.kind in NETWORK_KINDS and layer not in read))


def gguf_layer(digest: str, size: int, name: str = "") -> Layer:
    """The layer of a GGUF file; parts of a split model have names."""
    return Layer(f"{LAYER_TYPE}model", digest, size, name=name)


def adapter_layer(digest: str, size: int) -> Layer:
    """The layer of an adapter, a GGUF file."""
    return Layer(LAYER_TYPE + ADAPTER, digest, size)


def folder_layer(name: str, digest: str, size: int) -> Layer:
    """The layer of a file of a Hugging Face folder."""
    kind = {SAFETENSORS: "tensor", ".json": "json", ONNX: "onnx"}.get(PurePosixPath(name).suffix, "file")
    return Layer(LAYER_TYPE + kind, digest, size, name=name)


def is_relative(path: str) -> bool:
    """Whether a file's name stays within its folder: no empty, "." or ".." elements, and no root."""
    return bool(path) and not PurePosixPath(path).is_absolute() and {"", ".", ".."}.isdisjoint(path.split("/"))


def combined(digests: Mapping[str, str]) -> str:
    """The digest of several files together: of what `sha256sum` prints of them, sorted by name."""
    listing = "".join(f"{hex_of(digest).lower()}  {name}\n" for name, digest in sorted(digests.items()))
    return digest_of(listing.encode())


def adapted_digest(base: str, adapter: str) -> str:
    """What names a network with an adapter, given the digests of both."""
    return combined({"base": base, "adapter": adapter})


def _named(layers: tuple[Layer, ...]) -> bool:
    """Whether the layers have names that can lie together in a folder."""
    names = {layer.name for layer in layers}
    return len(names) == len(layers) and all("\0" not in name and is_relative(name) for name in names)
