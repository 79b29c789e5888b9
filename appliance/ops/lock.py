"""One server per store: two would prune each other's uploads."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from appliance.errors import ApplianceError

LOCK = "appliance.lock"


@contextlib.contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; the kernel lets go of it when the process ends, however it ends.

    Raises ApplianceError when another process holds it. Windows has no such lock: there nothing is held.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ApplianceError(f"another appliance already serves the models in {folder}") from error
        yield
