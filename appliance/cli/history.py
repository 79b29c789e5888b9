"""What was typed at the prompt of `run`, from one conversation to the next: a file of lines, for its owner alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

HISTORY_LINES = 1000


def history_path(environ: Mapping[str, str]) -> Path:
    """Where the history of `run` is kept: $XDG_STATE_HOME/edge-appliance/, else ~/.local/state/edge-appliance/."""
    base = environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "edge-appliance" / "history"


def read_history(path: Path) -> list[str]:
    """The lines of the file, the oldest first; none where it cannot be read."""
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


def remember(path: Path, entry: str) -> None:
    """Add an entry's lines to the file, to what other conversations wrote meanwhile; the oldest lines go.

    The file is whole at any moment. Where it cannot be written nothing is remembered.
    """
    lines = [*read_history(path), *entry.splitlines()][-HISTORY_LINES:]
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial.unlink(missing_ok=True)
        with open(partial, "x", encoding="utf-8", errors="replace", opener=_private) as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
