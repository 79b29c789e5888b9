"""Clearing away what nothing uses: blobs, bundles, empty folders, and what was left half made."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.bundle import KV_TYPES, RECIPES, TARGETS
from appliance.errors import CorruptManifest
from appliance.store.blobs import hex_of
from appliance.store.disk import abandoned, is_download, is_partial, remove_tree
from appliance.store.model import bundle_name
from appliance.store.usage import entries, partials, tree_bytes
from appliance.upkeep import Leftover, Pruned

if TYPE_CHECKING:
    from appliance.store.store import Store

log = logging.getLogger(__name__)

STALE_S = 3600.0  # a download that broke off longer ago is not waited for when the store is opened
QUIET_S = 600.0  # nor, on request, one that nobody here goes on with: another server in this folder may
BUNDLES = frozenset(bundle_name(*each) for each in ((r, k, t) for r in RECIPES for k in KV_TYPES for t in TARGETS))

Wanted = Mapping[str, Collection[Path]]
"""The bundles that are loaded by someone, by the digest of what they are made of. Of others, all are."""


def prune(store: Store) -> None:
    """Remove stale partials, then all that no manifest uses; the caller holds the store's lock.

    The second step is skipped if any manifest is damaged: what it needs is then unknown.
    """
    found = leftovers(store)
    if found.kept:
        log.warning("%s; nothing is pruned", found.kept)
    for leftover in found.leftovers:
        log.info("removing %s: %s", leftover.name, leftover.reason)
        remove(store, leftover)
    store.manifests.remove_empty_folders()


def leftovers(store: Store, wanted: Wanted | None = None, patience_s: float = STALE_S) -> Pruned:
    """All that nothing uses. Downloads that nobody goes on with are let be for `patience_s` after their last byte."""
    broken = _broken(store, patience_s)
    try:
        used = store.used_digests()
    except CorruptManifest as error:
        return Pruned(tuple(broken), str(error))
    return Pruned((*broken, *_unused_blobs(store, used), *_unused_bundles(store, used, wanted or {})))


def remove(store: Store, leftover: Leftover) -> None:
    """Remove it, and forget what was known of it."""
    path = store.root / leftover.name
    remove_tree(path)
    if path.parent == store.blobs.folder and not is_partial(path):
        store.headers.forget(path.name.replace("-", ":", 1))


def _broken(store: Store, patience_s: float) -> list[Leftover]:
    active = {hex_of(digest) for digest in store.digests_in_the_making()}
    found = []
    for path in partials(store.root):
        if abandoned(path):
            found.append(_leftover(store, path, "it was left half made"))
        elif is_download(path) and path.name[7:71] not in active and _age_s(path) > patience_s:
            found.append(_leftover(store, path, "a download that broke off"))
    return found


def _unused_blobs(store: Store, used: Collection[str]) -> Iterator[Leftover]:
    for digest in store.blobs.digests():
        if digest not in used:
            yield _leftover(store, store.blobs.path(digest), "no model uses it")


def _unused_bundles(store: Store, used: Collection[str], wanted: Wanted) -> Iterator[Leftover]:
    for digest in store.derived_digests():
        folder = store.derived / hex_of(digest)
        if digest not in used:
            yield _leftover(store, folder, "bundles of what no model uses")
        elif digest in wanted:
            for bundle in entries(folder):
                if bundle.name in BUNDLES and bundle not in wanted[digest]:
                    yield _leftover(store, bundle, "no model is loaded from this bundle any more")


def _leftover(store: Store, path: Path, reason: str) -> Leftover:
    return Leftover(path.relative_to(store.root).as_posix(), tree_bytes(path), reason)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0
