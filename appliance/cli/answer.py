"""Printing an answer while it arrives: word wrap, the thinking part, timings at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from appliance.cli.formats import cell_width, go_duration

GREY, DEFAULT_COLOR = "\x1b[90m", "\x1b[39m"
_MARGIN = 5


class WordWrap:
    """Breaks a stream of characters at words.

    Text is shown as it comes, so a word that turns out too long for its line is erased there and written again
    on the next: the result holds cursor movements and is for terminals only.
    """

    def __init__(self, columns: int) -> None:
        self._limit = columns - _MARGIN
        self._used = 0
        self._word = ""

    def push(self, text: str) -> str:
        """What to write for `text`."""
        return "".join(map(self._character, text))

    def _character(self, character: str) -> str:
        if character in "\r\n":
            self._used, self._word = 0, ""
            return character
        width = cell_width(character)
        if self._used + width > self._limit:
            return self._break(character, width)
        self._used += width
        self._word = "" if character in " \t" or width > 1 else self._word + character
        return character

    def _break(self, character: str, width: int) -> str:
        """The line is full: go on below, and take the unfinished word along unless it fills a line itself."""
        if character in " \t":
            self._used, self._word = 0, ""
            return "\n"
        carried = cell_width(self._word)
        if carried > self._limit - _MARGIN:
            self._used, self._word = width, ""
            return "\n" + character
        moved = f"\x1b[{carried}D\x1b[K\n{self._word}" if carried else "\n"
        self._used = carried + width
        self._word = "" if width > 1 else self._word + character
        return moved + character


@dataclass
class Answer:
    """Writes an answer to `out` piece by piece and remembers it.

    Thinking is framed by `Thinking...` and `...done thinking.`, grey where `color`, or left out when `hide_thinking`.
    """

    out: TextIO = field(default_factory=lambda: sys.stdout)
    wrap: WordWrap | None = None
    hide_thinking: bool = False
    color: bool = False
    content: str = ""
    thinking: str = ""
    tool_calls: list[Mapping[str, Any]] = field(default_factory=list)
    _framed: bool = False

    def push(self, message: Mapping[str, Any]) -> None:
        """Show what one event's message brought: `thinking`, `content` or `response`, `tool_calls`."""
        if thinking := message.get("thinking"):
            self.thinking += thinking  # before it is shown: what was seen before Ctrl+C is also remembered
            if not self.hide_thinking:
                self._begin_thinking()
                self._write(thinking)
        if content := message.get("content") or message.get("response"):
            self.content += content
            self._end_thinking()
            self._write(content)
        for call in message.get("tool_calls") or ():
            self.tool_calls.append(call)
            self._end_thinking()
            self._write(_tool_call(call, first_in_line=self._line_is_empty()))

    def close(self) -> None:
        """End what is open: the thinking's frame, the line, and a blank one after an answer."""
        self._end_thinking()
        self._write("\n\n" if self.content or self.tool_calls else "\n")

    def _begin_thinking(self) -> None:
        if not self._framed:
            self._framed = True
            self.out.write(GREY if self.color else "")
            self._write("Thinking...\n")

    def _end_thinking(self) -> None:
        if self._framed:
            self._framed = False
            self._write(("" if self.thinking.endswith("\n") else "\n") + "...done thinking.\n\n")
            self.out.write(DEFAULT_COLOR if self.color else "")

    def _line_is_empty(self) -> bool:
        return not self.tool_calls[:-1] and (not self.content or self.content.endswith("\n"))

    def _write(self, text: str) -> None:
        self.out.write(self.wrap.push(text) if self.wrap else text)
        self.out.flush()


def _tool_call(call: Mapping[str, Any], first_in_line: bool) -> str:
    function = call.get("function") or {}
    arguments = json.dumps(function.get("arguments") or {}, ensure_ascii=False)
    return f"{'' if first_in_line else chr(10)}Tool call: {function.get('name', '')}({arguments})"


def print_events(
    events: Iterable[Mapping[str, Any]], answer: Answer, message_of: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Push every event of a chat or generate stream into `answer`; returns the last event, {} if there was none.

    `message_of` finds the object with what was said in an event.
    """
    last: Mapping[str, Any] = {}
    for last in events:
        answer.push(message_of(last))
    return last


def timings(event: Mapping[str, Any]) -> str:
    """The lines of --verbose from the last event of a stream; zero and absent figures are left out."""
    lines = []
    if total := event.get("total_duration"):
        lines.append(("total duration:", go_duration(total)))
    if load := event.get("load_duration"):
        lines.append(("load duration:", go_duration(load)))
    for name in ("prompt eval", "eval"):
        key = name.replace(" ", "_")
        count, duration = event.get(f"{key}_count", 0), event.get(f"{key}_duration", 0)
        if count:
            lines.append((f"{name} count:", f"{count} token(s)"))
        if duration:
            lines.append((f"{name} duration:", go_duration(duration)))
            lines.append((f"{name} rate:", f"{count / duration * 1e9:.2f} tokens/s"))
    return "".join(f"{label:<22}{value}\n" for label, value in lines)
