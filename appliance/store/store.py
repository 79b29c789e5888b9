"""The store: models in the very folders Ollama uses, and what was derived from them.

    <root>/manifests/<host>/<namespace>/<model>/<tag>
    <root>/blobs/sha256-<hex>
    <root>/onnx/<hex of a model's blob>/<recipe>/     bundles, made here

Reading needs no lock: everything appears and vanishes by a rename. Changes take one lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import weakref
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from appliance.core import ModelSummary
from appliance.errors import CorruptManifest, InvalidName, ModelNotFound
from appliance.store import prune
from appliance.store.blobs import Blobs, digest_of, hex_of
from appliance.store.disk import remove_tree
from appliance.store.headers import HeaderCache
from appliance.store.manifests import CONFIG_TYPE, Layer, Manifest, Manifests, encode_manifest, parse_manifest
from appliance.store.model import StoredModel
from appliance.store.names import ModelName, fold, parse_reference
from appliance.store.parts import parts_of

__all__ = ["Store", "StoredModel"]

log = logging.getLogger(__name__)


class BlobUser(Protocol):
    """Something in the making whose blobs must stay although no manifest names them yet."""

    @property
    def digests(self) -> set[str]:
        """The blobs it needs."""


class Store:
    """The models of one folder. May be used from any thread; the only writer of its folder.

    Opening renames the blobs of old stores and, unless `noprune`, clears away what nothing uses. `floor` bytes of the
    disk are left free: what would take them raises NotEnoughDisk.
    """

    def __init__(self, root: Path, noprune: bool = False, floor: int = 0, go_template: bool | None = None) -> None:
        self.root = root
        self.noprune = noprune
        self.blobs = Blobs(root / "blobs", floor)
        self.manifests = Manifests(root / "manifests", floor)
        self.space = self.blobs.space
        self.derived = root / "onnx"
        self.headers = HeaderCache(self.blobs)
        self._go_template = go_template
        self._lock = threading.RLock()
        self._users: weakref.WeakSet[BlobUser] = weakref.WeakSet()
        self.blobs.migrate()
        if not noprune:
            self.prune()

    def resolve(self, text: str) -> ModelName:
        """The name a client means, in the spelling that is installed; raises InvalidName."""
        return self.fold(parse_reference(text))

    def fold(self, name: ModelName) -> ModelName:
        """`name` in the spelling that is installed."""
        return fold(name, self.manifests.names())

    def model(self, reference: str | ModelName) -> StoredModel:
        """An installed model; raises InvalidName, ModelNotFound, CorruptManifest."""
        name = self.resolve(reference) if isinstance(reference, str) else reference
        try:
            return self._load(name)
        except FileNotFoundError as error:
            asked = reference if isinstance(reference, str) else reference.short
            raise ModelNotFound(f"model '{asked}' not found") from error

    def _load(self, name: ModelName) -> StoredModel:
        raw = self.manifests.read(name)
        modified_at = datetime.fromtimestamp(self.manifests.path(name).stat().st_mtime, UTC).astimezone()
        manifest = parse_manifest(raw, name.short)
        digest = hashlib.sha256(raw).hexdigest()
        return StoredModel(
            name, manifest, digest, modified_at, self.blobs, self.headers, self.derived, self._go_template
        )

    def list(self) -> Sequence[StoredModel]:
        """All models, newest first. One whose manifest or config is damaged is left out with a warning."""
        models = []
        for name in self.manifests.names():
            try:
                model = self._load(name)
                _ = model.config
                models.append(model)
            except FileNotFoundError:  # deleted meanwhile
                continue
            except CorruptManifest as error:
                log.warning("%s", error)
        return sorted(models, key=lambda model: model.modified_at, reverse=True)

    def summaries(self) -> Sequence[ModelSummary]:
        """The rows of the list of models, newest first."""
        return [model.summary() for model in self.list()]

    def copy(self, source: str, destination: str) -> None:
        """Give a model a second name, replacing what has it; raises InvalidName, ModelNotFound."""
        with self._lock:
            origin = self._named(source, f'source "{source}" is invalid')
            target = self._named(destination, f'destination "{destination}" is invalid')
            try:
                raw = self.manifests.read(origin)
            except FileNotFoundError as error:
                raise ModelNotFound(f'model "{source}" not found') from error
            parse_manifest(raw, origin.short)
            if target != origin:
                self._put(target, raw)

    def delete(self, reference: str) -> None:
        """Remove a model and what only it used; raises InvalidName, ModelNotFound.

        One whose manifest is damaged can be deleted; its blobs go when the store is next opened.
        """
        with self._lock:
            name = self._named(reference, f'name "{reference}" is invalid')
            freed = self._digests(name)
            try:
                self.manifests.delete(name)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise ModelNotFound(f"model '{reference}' not found") from error
            self.remove_unused(freed)

    def _named(self, text: str, complaint: str) -> ModelName:
        try:
            return self.resolve(text)
        except InvalidName as error:
            raise InvalidName(complaint) from error

    def publish(self, name: ModelName, layers: Sequence[Layer], config: bytes) -> None:
        """Install a model, replacing what has its name.

        Raises BlobNotFound if a layer is missing, NotEnoughDisk; then nothing has changed.
        """
        with self._lock:
            for layer in layers:
                self.blobs.existing(layer.digest)
            self.blobs.add(config)
            described = Layer(CONFIG_TYPE, digest_of(config), len(config))
            self._put(self.fold(name), encode_manifest(Manifest(described, tuple(layers))))

    def install(self, name: ModelName, raw: bytes) -> set[str]:
        """Put a manifest from elsewhere in place, byte for byte; returns what only the one before it may have used.

        Raises BlobNotFound if a blob is missing, CorruptManifest, NotEnoughDisk; then nothing has changed.
        """
        with self._lock:
            needed = _needed(manifest := parse_manifest(raw, name.short))
            for layer in manifest.parts:
                self.blobs.existing(layer.digest)
            name = self.fold(name)
            freed = self._digests(name) - needed
            self.manifests.write(name, raw)
            return set() if self.noprune else freed

    def _put(self, name: ModelName, raw: bytes) -> None:
        freed = self._digests(name)
        self.manifests.write(name, raw)
        if not self.noprune:
            self.remove_unused(freed)

    def _digests(self, name: ModelName) -> set[str]:
        """The blobs of an installed model, and what names its bundles; none if it is not there or damaged."""
        try:
            return _needed(parse_manifest(self.manifests.read(name), name.short))
        except (FileNotFoundError, CorruptManifest):
            return set()

    def protect(self, user: BlobUser) -> None:
        """Keep `user`'s blobs until it is released, or is no more."""
        with self._lock:
            self._users.add(user)

    def release(self, user: BlobUser) -> None:
        """End protect()."""
        with self._lock:
            self._users.discard(user)

    def used_digests(self) -> set[str]:
        """Every blob that a manifest or something in the making needs, and every digest that names bundles of theirs.

        Raises CorruptManifest if a manifest cannot be read: then nobody knows what it needs.
        """
        used: set[str] = set()
        for name in self.manifests.names(strict=True):
            try:
                used |= _needed(parse_manifest(self.manifests.read(name), name.short))
            except FileNotFoundError:
                continue
        return used | self.digests_in_the_making()

    def digests_in_the_making(self) -> set[str]:
        """What is protected, whether or not a manifest needs it."""
        return {digest for user in list(self._users) for digest in user.digests}

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Nobody else changes the store meanwhile."""
        with self._lock:
            yield

    def prune(self) -> None:
        """Clear away what nothing uses; see prune.py."""
        with self.unchanged():
            prune.prune(self)

    def remove_unused(self, digests: set[str]) -> None:
        """Delete those of these blobs that nothing uses."""
        with self._lock:
            try:
                unused = digests - self.used_digests()
            except CorruptManifest as error:
                log.warning("%s; blobs are kept", error)
                return
            for digest in unused:
                self.remove_blob(digest)

    def remove_blob(self, digest: str) -> None:
        """Delete a blob and the bundles made of it, or only bundles where several blobs have one digest together."""
        with self._lock:
            remove_tree(self.derived / hex_of(digest))
            self.blobs.remove(digest)
            self.headers.forget(digest)

    def derived_digests(self) -> Iterator[str]:
        """The digests of what bundles were made of."""
        for folder in self.derived.iterdir() if self.derived.is_dir() else ():
            if len(folder.name) == 64 and not set(folder.name) - set("0123456789abcdefABCDEF"):
                yield f"sha256:{folder.name}"


def _needed(manifest: Manifest) -> set[str]:
    """The blobs of a model, and what names its bundles."""
    parts = parts_of(manifest.layers)
    return manifest.digests | ({parts.digest} if parts else set())
