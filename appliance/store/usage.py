"""How much of the disk the store takes, and for what."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.bundle import PREFIXES
from appliance.errors import CorruptManifest
from appliance.store.blobs import hex_of
from appliance.store.disk import is_partial
from appliance.store.manifests import Manifest, parse_manifest
from appliance.store.parts import parts_of
from appliance.upkeep import DiskUsage, ModelUsage

if TYPE_CHECKING:
    from appliance.store.store import Store

log = logging.getLogger(__name__)


def disk_usage(store: Store) -> DiskUsage:
    """Measure the store; models whose manifest is damaged are left out with a warning."""
    manifests = dict(_manifests(store))
    sizes = {digest: tree_bytes(store.blobs.path(digest)) for digest in store.blobs.digests()}
    users = Counter(digest for manifest in manifests.values() for digest in manifest.digests)
    bundles = {folder.name: _without_prefixes(folder) for folder in _folders(store.derived)}
    models = tuple(_model(name, each, sizes, users, bundles) for name, each in manifests.items())
    partial = sum(map(tree_bytes, partials(store.root)))
    disk = shutil.disk_usage(store.root)
    return DiskUsage(
        models=tuple(sorted(models, key=lambda model: model.size, reverse=True)),
        blobs=sum(size for digest, size in sizes.items() if digest in users),
        unused=sum(size for digest, size in sizes.items() if digest not in users),
        bundles=sum(bundles.values()),
        prefixes=sum(tree_bytes(folder) for folder in store.derived.glob(f"*/*/{PREFIXES}")),
        partial=partial,
        disk=disk.total,
        free=disk.free,
        floor=store.space.floor,
    )


def partials(root: Path) -> Iterator[Path]:
    """What is being written or downloaded under `root`, or was when it broke off."""
    derived = root / "onnx"
    for folder in (root / "blobs", root / "manifests", derived, *_folders(derived)):
        yield from filter(is_partial, entries(folder))


def entries(folder: Path) -> list[Path]:
    """What is in a folder; nothing if it is not there."""
    return list(folder.iterdir()) if folder.is_dir() else []


def tree_bytes(path: Path) -> int:
    """Bytes on disk of a file or of all in a folder. Links count nothing, nor do a sparse file's holes."""
    if path.is_dir() and not path.is_symlink():
        return sum(map(tree_bytes, entries(path)))
    try:
        found = path.lstat()
    except FileNotFoundError:  # removed meanwhile
        return 0
    blocks = getattr(found, "st_blocks", None)
    return min(found.st_size, 512 * blocks) if blocks else 0 if path.is_symlink() else found.st_size


def _manifests(store: Store) -> Iterator[tuple[str, Manifest]]:
    for name in store.manifests.names():
        try:
            yield name.short, parse_manifest(store.manifests.read(name), name.short)
        except FileNotFoundError:  # deleted meanwhile
            continue
        except CorruptManifest as error:
            log.warning("%s", error)


def _model(
    name: str, manifest: Manifest, sizes: dict[str, int], users: Counter[str], bundles: dict[str, int]
) -> ModelUsage:
    held = {digest: sizes.get(digest, 0) for digest in manifest.digests}
    parts = parts_of(manifest.layers)
    return ModelUsage(
        name=name,
        size=sum(held.values()),
        alone=sum(size for digest, size in held.items() if users[digest] == 1),
        bundles=bundles.get(hex_of(parts.digest), 0) if parts else 0,
    )


def _without_prefixes(folder: Path) -> int:
    """Bytes of all whole bundles in a folder."""
    whole = [bundle for bundle in entries(folder) if not is_partial(bundle)]
    return sum(tree_bytes(each) for bundle in whole for each in entries(bundle) if each.name != PREFIXES)


def _folders(folder: Path) -> Iterable[Path]:
    return (entry for entry in entries(folder) if entry.is_dir() and not entry.is_symlink() and not is_partial(entry))
