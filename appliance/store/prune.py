"""Clearing away what nothing uses: blobs, bundles, empty folders, and what dead processes left half made."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.errors import CorruptManifest
from appliance.store.disk import abandoned, remove_tree

if TYPE_CHECKING:
    from appliance.store.store import Store

log = logging.getLogger(__name__)

STALE_S = 3600.0  # an older partial download, or temporary file of Ollama's, is nobody's any more
_OLLAMA_PARTIAL = re.compile(r"sha256-(?![0-9a-fA-F]{64}$).+")


def prune(store: Store) -> None:
    """Remove abandoned partials, then all that no manifest uses.

    The second step is skipped if any manifest is damaged: what it needs is then unknown.
    """
    _remove_partials(store.root)
    try:
        used = store.used_digests()
    except CorruptManifest as error:
        log.warning("%s; nothing is pruned", error)
        return
    for digest in set(chain(store.blobs.digests(), store.derived_digests())) - used:
        log.info("removing %s, which no model uses", digest)
        store.remove_blob(digest)
    store.manifests.remove_empty_folders()


def _remove_partials(root: Path) -> None:
    derived = root / "onnx"
    places = (root / "blobs", root / "manifests", derived, *_folders(derived))
    for entry in chain.from_iterable(map(_entries, places)):
        if abandoned(entry):
            log.info("removing %s, which was left half made", entry.name)
            remove_tree(entry)
    for entry in _entries(root / "blobs"):
        if _OLLAMA_PARTIAL.fullmatch(entry.name) and time.time() - entry.lstat().st_mtime > STALE_S:
            log.info("removing the stale download %s", entry.name)
            remove_tree(entry)


def _folders(folder: Path) -> Iterable[Path]:
    return (entry for entry in _entries(folder) if entry.is_dir() and not entry.is_symlink())


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
