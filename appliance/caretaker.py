"""Looking after the store: what takes its disk, what nothing uses, what is damaged; archives of models.

The daemon does it beside its work, and the command line where no daemon runs.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from pathlib import Path

from appliance.bundle import CONVERTER_VERSION, TARGETS, read_description
from appliance.choice import Choice, Choices
from appliance.config import Settings
from appliance.core import Progress
from appliance.errors import ApplianceError, ModelFileError
from appliance.store.packing import Packing
from appliance.store.prune import QUIET_S, leftovers, remove
from appliance.store.store import Store, StoredModel
from appliance.store.unpacking import Unpacking
from appliance.store.usage import disk_usage
from appliance.store.verify import Verification
from appliance.upkeep import DiskUsage, Pruned, Verified

log = logging.getLogger(__name__)

INTERVAL_S = 0.1  # between two lines of progress


class Caretaker:
    """Cares for one store. All of it blocks. `choose` tells which bundle a model is loaded from, `loaded` which
    are loaded now."""

    def __init__(
        self, store: Store, choose: Callable[[StoredModel], Choice], loaded: Callable[[], Collection[Path]] = tuple
    ) -> None:
        self._store = store
        self._choose = choose
        self._loaded = loaded

    def disk_usage(self) -> DiskUsage:
        """What the store takes, and what is left."""
        return disk_usage(self._store)

    def prune(self, dry_run: bool) -> Pruned:
        """Remove all that nothing uses, bundles that no model is loaded from any more included, or only list it."""
        with self._store.unchanged():
            found = leftovers(self._store, self._wanted(), QUIET_S)
            if not dry_run:
                for leftover in found.leftovers:
                    log.info("removing %s: %s", leftover.name, leftover.reason)
                    remove(self._store, leftover)
                self._store.manifests.remove_empty_folders()
        return found

    def verify(self, *, remove: bool, dry_run: bool = False) -> Generator[Progress, None, Verified]:
        """Read the whole store and compare. With `remove`, damaged blobs and bundles go, if nothing runs from them;
        with `dry_run` as well, they only count as removed."""
        last = float("-inf")
        verification = Verification(self._store, self._loaded(), remove=remove, dry_run=dry_run)
        with closing(verification.run()) as steps:
            while True:
                try:
                    progress = next(steps)
                except StopIteration as end:
                    result: Verified = end.value
                    return result
                if time.monotonic() - last >= INTERVAL_S:
                    last = time.monotonic()
                    yield progress

    def pack(self, models: Sequence[str]) -> Packing:
        """Begin an archive of some models."""
        return Packing(self._store, models)

    def unpack(self, dry_run: bool = False) -> Unpacking:
        """Begin to import an archive, or only to check it."""
        return Unpacking(self._store, dry_run)

    def _wanted(self) -> dict[str, set[Path]]:
        """The bundles of each network that are loaded now or would be, whichever provider runs them.

        Networks are left out where that is not known: one in the making, or one that cannot be read.
        """
        wanted: defaultdict[str, set[Path]] = defaultdict(set)
        unknown = self._store.digests_in_the_making()
        loaded = set(self._loaded())
        for model in self._store.list():
            if not model.parts:
                continue
            try:
                choice = self._choose(model)
            except (ApplianceError, OSError) as error:
                log.warning("bundles of %s are kept: %s", model.name.short, error)
                unknown.add(model.model_digest)
                continue
            folders = {choice.on(target).folder for target in TARGETS}
            wanted[model.model_digest] |= {folder for folder in folders if folder in loaded or is_current(folder)}
        for folder in loaded:
            wanted[f"sha256:{folder.parent.name}"].add(folder)
        return {digest: folders for digest, folders in wanted.items() if digest not in unknown}


def caretaker(settings: Settings, store: Store) -> Caretaker:
    """A caretaker where no daemon runs."""
    return Caretaker(store, Choices(settings).of)


def is_current(folder: Path) -> bool:
    """Whether a bundle is one that loading would take as it is."""
    try:
        return read_description(folder).converter_version == CONVERTER_VERSION
    except (ModelFileError, OSError):
        return False
