"""Manifests: which blobs make up a model, `manifests/<host>/<namespace>/<model>/<tag>`.

The digest of a model is that of its manifest's bytes, so what is written is Go's JSON to the byte, and what
is copied is copied as it is. The fields are those of the Docker image manifest, schema 2.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.errors import CorruptManifest, InvalidName, InvalidRequest
from appliance.store.blobs import hex_of
from appliance.store.disk import Space, make_folders, sync_folder, write_atomic
from appliance.store.gojson import encode
from appliance.store.names import ModelName

log = logging.getLogger(__name__)

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.ollama.image."
MAX_MANIFEST_BYTES = 4 << 20
MAX_FILE_NAME = 255  # which file systems allow; the other parts of a model's name are shorter


@dataclass(frozen=True, slots=True)
class Layer:
    """A blob and what it is for. `source` is the model it was taken from."""

    media_type: str
    digest: str
    size: int
    source: str = ""
    name: str = ""

    @property
    def kind(self) -> str:
        """`model`, `template`, `system`, `params` …; "" for a media type that is not Ollama's."""
        if not self.media_type.startswith(LAYER_TYPE):
            return ""
        kind = self.media_type.removeprefix(LAYER_TYPE)
        return "template" if kind == "prompt" else kind  # as old stores call it


@dataclass(frozen=True, slots=True)
class Manifest:
    """The parts of a model: its config and its layers, in order."""

    config: Layer | None
    layers: tuple[Layer, ...]

    @property
    def digests(self) -> set[str]:
        """Every blob it needs."""
        return {layer.digest for layer in self.parts}

    @property
    def parts(self) -> tuple[Layer, ...]:
        """The layers, and the config after them."""
        return (*self.layers, self.config) if self.config else self.layers


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of a manifest made here."""
    return encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": _layer_json(manifest.config) if manifest.config else {},
            "layers": [_layer_json(layer) for layer in manifest.layers],
        }
    )


def _layer_json(layer: Layer) -> dict[str, Any]:
    required = {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}
    return required | ({"from": layer.source} if layer.source else {}) | ({"name": layer.name} if layer.name else {})


def parse_manifest(raw: bytes, label: str) -> Manifest:
    """Read a manifest; raises CorruptManifest, which names the model by `label`."""
    try:
        if len(raw) > MAX_MANIFEST_BYTES:
            raise ValueError("it is too large")
        fields = json.loads(raw)
        config = fields.get("config") or {}
        layers = fields.get("layers") or []
        return Manifest(
            _parse_layer(config) if config.get("digest") else None,
            tuple(_parse_layer(layer) for layer in layers),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InvalidRequest) as error:
        log.debug("manifest of %s", label, exc_info=error)
        raise CorruptManifest(f"the manifest of '{label}' is damaged; pull, create or delete the model") from error


def _parse_layer(fields: dict[str, Any]) -> Layer:
    media_type, digest, size = fields["mediaType"], fields["digest"], fields["size"]
    source, name = fields.get("from") or "", fields.get("name") or ""
    if type(size) is not int or size < 0 or not all(isinstance(t, str) for t in (media_type, source, name)):
        raise ValueError("a layer's field has the wrong type")
    return Layer(media_type, f"sha256:{hex_of(digest)}", size, source, name)


class Manifests:
    """The folder of manifests. Links in it are not followed, so nothing outside is read or written."""

    def __init__(self, folder: Path, floor: int = 0) -> None:
        self.folder = folder
        self._space = Space(folder, floor)
        make_folders(folder)

    def path(self, name: ModelName) -> Path:
        """Where the manifest is, or would be."""
        return self.folder.joinpath(*name.parts)

    def names(self, strict: bool = False) -> Iterator[ModelName]:
        """All installed names, by path.

        Links and files whose path is no name are passed over with a warning, or, if `strict`, raise
        CorruptManifest: whoever counts what is in use must not miss any.
        """
        for parts in _walk(self.folder, depth=4):
            try:
                if self.folder.joinpath(*parts).is_symlink():
                    raise InvalidName("it is a link")
                yield ModelName(*parts)
            except (InvalidName, TypeError) as error:
                stray = "/".join(parts)
                if strict:
                    raise CorruptManifest(f"manifests/{stray} is not a manifest's place") from error
                log.warning("manifests/%s is not a manifest's place", stray)

    def read(self, name: ModelName) -> bytes:
        """The manifest's bytes; raises FileNotFoundError, or CorruptManifest if no file can be there."""
        path = self.path(name)
        self._require_place(name, (*self._folders(name), path))
        try:
            return path.read_bytes()
        except NotADirectoryError as error:
            raise FileNotFoundError(name.short) from error
        except IsADirectoryError as error:
            raise CorruptManifest(f"the manifest of '{name.short}' is a folder") from error

    def write(self, name: ModelName, raw: bytes) -> None:
        """Put a manifest in place, wholly or not at all; raises CorruptManifest where a folder is a link."""
        self._require_place(name, self._folders(name))
        # Partials lie beside the hosts' folders: where tags are, they would look like manifests.
        write_atomic(self.path(name), raw, self._space)

    def delete(self, name: ModelName) -> None:
        """Remove a manifest, or a link in its place, and the folders it leaves empty.

        Raises FileNotFoundError, and CorruptManifest where a folder is a link.
        """
        path = self.path(name)
        self._require_place(name, self._folders(name))
        path.unlink()
        sync_folder(path.parent)
        with contextlib.suppress(OSError):  # the first folder that is not empty ends it
            for folder in path.parents[:3]:
                folder.rmdir()

    def _folders(self, name: ModelName) -> tuple[Path, ...]:
        return tuple(self.folder.joinpath(*name.parts[:depth]) for depth in (1, 2, 3))

    def _require_place(self, name: ModelName, paths: Iterable[Path]) -> None:
        if len(name.host) > MAX_FILE_NAME:
            raise InvalidName(f"the host of a model's name has {len(name.host)} characters, {MAX_FILE_NAME} at most")
        if any(path.is_symlink() for path in paths):
            raise CorruptManifest(f"the manifest of '{name.short}' is a link, which is not followed")

    def remove_empty_folders(self) -> None:
        """Remove folders that hold no manifest."""
        for folder, _, _ in os.walk(self.folder, topdown=False):
            if Path(folder) != self.folder:
                with contextlib.suppress(OSError):
                    os.rmdir(folder)


def _walk(folder: Path, depth: int) -> Iterator[tuple[str, ...]]:
    """The paths, as tuples, of the plain files exactly `depth` levels down, and of all links on the way."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:  # deleted while we walked
        return
    for entry in entries:
        if entry.is_symlink() or (depth == 1 and entry.is_file()):
            yield (entry.name,)
        elif depth > 1 and entry.is_dir():
            for rest in _walk(Path(entry.path), depth - 1):
                yield (entry.name, *rest)
