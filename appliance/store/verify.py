"""Whether what is in the store is still what was put there: blobs against their names, bundles against their checksums.

Nothing is locked while files are read, which takes long; what changes meanwhile is what its writer made of it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Collection, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.bundle import CHECKSUMS, read_description
from appliance.core import Progress
from appliance.errors import CorruptManifest, ModelFileError
from appliance.store.disk import remove_tree
from appliance.store.manifests import parse_manifest
from appliance.store.parts import parts_of
from appliance.store.prune import BUNDLES
from appliance.store.usage import entries, tree_bytes
from appliance.upkeep import Flaw, Verified

if TYPE_CHECKING:
    from appliance.store.store import Store

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
STATUS = "verifying"
_RECREATE = "pull it again, or create it again from the same file"
_REBUILD = "the next load makes it anew"


class Verification:
    """One look at a store; `loaded` are bundles that stay, damaged or not, since models run from them.

    With `remove`, damaged blobs and bundles are removed as they are found; with `dry_run` they only count as removed.
    """

    def __init__(
        self, store: Store, loaded: Collection[Path] = (), *, remove: bool = False, dry_run: bool = False
    ) -> None:
        self._store = store
        self._loaded = loaded
        self._remove = remove
        self._dry_run = dry_run
        self._flaws: list[Flaw] = []
        self._blob_users: defaultdict[str, list[str]] = defaultdict(list)
        self._bundle_users: defaultdict[str, list[str]] = defaultdict(list)
        self._done = self._total = 0

    def run(self) -> Generator[Progress, None, Verified]:
        """Check all, and say how far it is once in a while."""
        self._read_manifests()
        blobs = sorted(self._store.blobs.digests())
        bundles = [each for folder in entries(self._store.derived) for each in entries(folder) if each.name in BUNDLES]
        files = [*map(self._store.blobs.path, blobs), *bundles]
        self._total = sum(map(tree_bytes, files))
        for digest in self._blob_users.keys() - set(blobs):
            self._missing(digest)
        for digest in blobs:
            yield from self._check_blob(digest)
        for bundle in sorted(bundles):
            yield from self._check_bundle(bundle)
        return Verified(len(blobs), len(bundles), self._done, tuple(self._flaws))

    def _read_manifests(self) -> None:
        for name in self._store.manifests.names():
            try:
                manifest = parse_manifest(self._store.manifests.read(name), name.short)
            except FileNotFoundError:  # deleted meanwhile
                continue
            except CorruptManifest:
                path = self._store.manifests.path(name).relative_to(self._store.root)
                mend = f"pull or create it again, or remove it: appliance rm {name.short}"
                self._flaws.append(Flaw(path.as_posix(), "the manifest cannot be read", (name.short,), mend))
                continue
            for digest in manifest.digests:
                self._blob_users[digest].append(name.short)
            if parts := parts_of(manifest.layers):
                self._bundle_users[parts.digest].append(name.short)

    def _missing(self, digest: str) -> None:
        if not self._store.blobs.has(digest):
            name = self._store.blobs.path(digest).relative_to(self._store.root).as_posix()
            self._flaws.append(Flaw(name, "it is missing", tuple(self._blob_users[digest]), _RECREATE))

    def _check_blob(self, digest: str) -> Generator[Progress, None, None]:
        path = self._store.blobs.path(digest)
        try:
            before = path.stat()
            found = yield from self._hash(path, digest)
        except FileNotFoundError:  # deleted meanwhile
            return
        except OSError as error:
            found = f"it cannot be read: {error.strerror}"
        if found.lower() == digest.removeprefix("sha256:").lower():
            return
        problem = found if " " in found else f"its bytes have the digest sha256:{found}"
        models = tuple(self._blob_users.get(digest, ()))
        mend = _RECREATE if models else "no model uses it: appliance prune removes it"
        removed = self._remove and self._drop_blob(digest, before)
        self._note(path, problem, models, mend, removed)

    def _drop_blob(self, digest: str, before: os.stat_result) -> bool:
        """Remove a blob, unless another has come into its place since it was read."""
        with self._store.unchanged():
            path = self._store.blobs.path(digest)
            if not path.exists() or not os.path.samestat(path.stat(), before):
                return False
            if not self._dry_run:
                self._store.blobs.remove(digest)
                self._store.headers.forget(digest)
        return True

    def _check_bundle(self, folder: Path) -> Generator[Progress, None, None]:
        try:
            before = folder.stat()
            problem = yield from self._bundle_problem(folder)
        except FileNotFoundError:  # deleted meanwhile
            return
        if not problem:
            return
        models = tuple(self._bundle_users.get(f"sha256:{folder.parent.name}", ()))
        if folder in self._loaded:
            self._note(folder, problem, models, f"stop the model, then verify again; {_REBUILD}", False)
            return
        removed = self._remove and self._drop_bundle(folder, before)
        self._note(folder, problem, models, _REBUILD if removed else f"appliance verify --remove; {_REBUILD}", removed)

    def _drop_bundle(self, folder: Path, before: os.stat_result) -> bool:
        with self._store.unchanged():
            if not folder.exists() or not os.path.samestat(folder.stat(), before):
                return False
            if not self._dry_run:
                remove_tree(folder)
        return True

    def _bundle_problem(self, folder: Path) -> Generator[Progress, None, str]:
        """What is wrong with a bundle, "" for nothing."""
        try:
            read_description(folder)
            expected = dict(_checksums(folder))
        except ModelFileError as error:
            return str(error)
        except (OSError, ValueError) as error:
            return f"{CHECKSUMS} cannot be read: {error}"
        for name, digest in expected.items():
            try:
                found = yield from self._hash(folder / name, folder.name)
            except OSError as error:
                if not folder.exists():
                    raise FileNotFoundError from error
                return f"{name} cannot be read: {error.strerror}"
            if found != digest:
                return f"{name} is not what was written"
        return ""

    def _hash(self, path: Path, label: str) -> Generator[Progress, None, str]:
        """The hex digest of a file, and the progress on the way."""
        hasher = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                hasher.update(chunk)
                self._done += len(chunk)
                yield Progress(STATUS, label, self._total, self._done)
        return hasher.hexdigest()

    def _note(self, path: Path, problem: str, models: tuple[str, ...], mend: str, removed: bool) -> None:
        name = path.relative_to(self._store.root).as_posix()
        log.warning("%s is damaged: %s%s", name, problem, "; removed" if removed else "")
        self._flaws.append(Flaw(name, problem, models, mend, removed))


def _checksums(folder: Path) -> Iterator[tuple[str, str]]:
    """Names and digests of a bundle's files; nothing where an older version wrote none. Raises ValueError, OSError."""
    if not (folder / CHECKSUMS).exists():
        return
    for line in (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name or name.startswith("/") or ".." in name.split("/"):
            raise ValueError("not lines of sha256sum")
        yield name, digest
