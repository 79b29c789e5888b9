"""Reading what is typed at the interactive prompt: line editing, history, an editor, texts of several lines."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import rich_click as click

from appliance.cli.history import read_history, remember

try:
    import readline
except ImportError:  # a Python built without it: lines can still be typed, just not edited
    readline = None  # type: ignore[assignment]

QUOTE = '"""'
PROMPT, MORE = ">>> ", "... "
_EDIT = "\x1f"  # Ctrl+G puts this character into the line, which nobody types, and ends it
_EDITING = r'"\C-g": "\C-v\C-_\C-m"'
_PASTING = "set enable-bracketed-paste on"  # lines that are pasted are one entry; Python switches it off


class Reader:
    """The prompt. Lines typed earlier can be recalled; while `keeping`, new ones are kept in the history's file."""

    def __init__(self, history: Path, keeping: bool) -> None:
        self._history = history
        self.keeping = keeping
        if readline:
            readline.set_auto_history(False)
            if "libedit" not in (readline.__doc__ or ""):
                readline.parse_and_bind(_EDITING)
                if os.environ.get("TERM") != "dumb":
                    readline.parse_and_bind(_PASTING)
            for line in read_history(history) if keeping else ():
                readline.add_history(line)

    def read(self) -> str:
        """The next entry, which may span lines inside triple quotes. Raises EOFError and KeyboardInterrupt."""
        return read_entry(self._line)

    def _line(self, prompt: str) -> str:
        line = input(prompt)
        while _EDIT in line:
            line = _input_with(prompt, _edited(line.replace(_EDIT, "")))
        if self.keeping and line.strip():
            if readline:
                readline.add_history(line)
            remember(self._history, line)
        return line


def _edited(text: str) -> str:
    """`text` as it leaves the editor that OLLAMA_EDITOR, VISUAL or EDITOR names."""
    editor = os.environ.get("OLLAMA_EDITOR") or None
    try:
        edited = click.edit(text, editor=editor, require_save=False, extension=".txt")
    except click.ClickException as error:
        click.echo(f"Error: {error.format_message()}", err=True)
        return text
    return (edited or "").rstrip("\n")


def _input_with(prompt: str, text: str) -> str:
    """Read a line that begins as `text`."""

    def insert() -> None:
        readline.insert_text(text)
        readline.redisplay()

    readline.set_pre_input_hook(insert)
    try:
        return input(prompt)
    finally:
        readline.set_pre_input_hook(None)


def read_entry(line_after: Callable[[str], str]) -> str:
    """One entry from `line_after(prompt)`.

    An entry that opens a triple quote, at its start or after `/set system`, goes on until the line that ends with
    the closing one; the quotes are not part of it.
    """
    entry = line_after(PROMPT)
    head, opened, text = entry.partition(QUOTE)
    if not opened or head.strip() not in ("", "/set system"):
        return entry
    while not text.endswith(QUOTE):
        text += "\n" + line_after(MORE)
    return head + text.removesuffix(QUOTE)
