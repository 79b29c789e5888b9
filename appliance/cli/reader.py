"""Reading what is typed at the interactive prompt: line editing, history, texts of several lines."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

try:
    import readline
except ImportError:  # a Python built without it: lines can still be typed, just not edited
    readline = None  # type: ignore[assignment]

QUOTE = '"""'
HISTORY_LINES = 1000


def history_path(environ: Mapping[str, str]) -> Path:
    """Where the history of `run` is kept: $XDG_STATE_HOME/edge-appliance/, else ~/.local/state/edge-appliance/."""
    base = environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "edge-appliance" / "history"


class Reader:
    """The prompt. With a history path, earlier lines are there to recall and new ones are kept in that file."""

    def __init__(self, history: Path | None) -> None:
        self._history = history
        self.keeping = history is not None
        if readline and history:
            readline.set_auto_history(False)
            with suppress(OSError):
                readline.read_history_file(history)

    def read(self) -> str:
        """The next entry, which may span lines inside triple quotes. Raises EOFError and KeyboardInterrupt."""
        return read_entry(self._line)

    def _line(self, prompt: str) -> str:
        line = input(prompt)
        if readline and self._history and self.keeping and line.strip():
            readline.add_history(line)
            self._save()
        return line

    def _save(self) -> None:
        assert self._history is not None
        with suppress(OSError):
            self._history.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            readline.set_history_length(HISTORY_LINES)
            readline.write_history_file(self._history)
            os.chmod(self._history, 0o600)


def read_entry(line_after: Callable[[str], str]) -> str:
    """One entry from `line_after(prompt)`.

    An entry that opens a triple quote, at its start or after `/set system`, goes on until the line that ends with
    the closing one; the quotes are not part of it.
    """
    entry = line_after(">>> ")
    head, opened, text = entry.partition(QUOTE)
    if not opened or head.strip() not in ("", "/set system"):
        return entry
    while not text.endswith(QUOTE):
        text += "\n" + line_after("... ")
    return head + text.removesuffix(QUOTE)
