"""The generic parser of tool calls: a mark of the model's template, then JSON that names a declared tool (spec 4.4)."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from typing import Any

from appliance.prompt.parsers.base import Parsed, ToolCall, held_back
from appliance.prompt.parsers.json_objects import ObjectScanner, read_object

log = logging.getLogger(__name__)

BARE = ("{", "[")  # tags that any JSON begins with


class TagParser:
    """Text up to a tag is the answer, JSON objects behind it are calls.

    The tags `{` and `[` count only as the first thing that the model writes, and what then turns out to hold no call
    is the answer after all. Behind other tags, what is no call of a declared tool is dropped, and the log says so.
    `opened`: the prompt ends with the tag.
    """

    def __init__(self, tag: str, names: Collection[str], *, opened: bool = False) -> None:
        self.markup = (tag,)
        self._tag = tag
        self._names = frozenset(filter(None, names))
        longest_first = "|".join(sorted(map(re.escape, self._names), key=len, reverse=True)) or "(?!)"
        self._spoken = re.compile(rf"(?<!\w)(?:{longest_first})(?!\w)")
        self._quoted = re.compile(f'"({longest_first})"')
        self._scanner = ObjectScanner()
        self._calling = opened
        self._plain = False
        self._held = ""
        self._whole = ""  # everything, while it may turn out to be the answer
        self._called = False

    def feed(self, text: str) -> Parsed:
        """See OutputParser."""
        if self._plain:
            return Parsed(text)
        if self._calling:
            return self._read(text)
        self._held += text
        return self._first() if self._tag in BARE else self._search()

    def finish(self) -> Parsed:
        """See OutputParser."""
        if not self._calling:
            held, self._held = self._held, ""
            return Parsed(held)
        if self._called:
            return Parsed()
        if self._tag in BARE:
            return Parsed(self._whole)
        log.warning("dropped what a model wrote after %s: it holds no whole call of a declared tool", self._tag)
        return Parsed()

    def opening(self, output: str) -> str:
        """See OutputParser."""
        return ""

    def _first(self) -> Parsed:
        """Whether the answer begins with the tag, once that can be told."""
        begun = self._held.lstrip()
        if not begun:
            return Parsed()
        self._held, held = "", self._held
        if begun.startswith(self._tag):
            self._calling = True
            self._whole = held.removesuffix(begun)
            return self._read(begun)
        self._plain = True
        return Parsed(held)

    def _search(self) -> Parsed:
        """What stands in front of the tag, and what can no longer become part of it."""
        before, tag, after = self._held.partition(self._tag)
        if tag:
            self._held, self._calling = "", True
            return Parsed(before) + self._read(after)
        keep = len(before) - held_back(before, self._tag)
        self._held = before[keep:]
        return Parsed(before[:keep])

    def _read(self, text: str) -> Parsed:
        if self._tag in BARE and not self._called:
            self._whole += text
        calls = tuple(
            call for lead, found in self._scanner.push(text) for call in self._calls(lead, found, read_object(found))
        )
        self._called = self._called or bool(calls)
        return Parsed(tool_calls=calls)

    def _calls(self, lead: str, text: str, found: dict[str, Any] | None) -> Iterator[ToolCall]:
        """The calls that an object makes, written as `text` behind `lead`."""
        if found is None:
            return
        made = list(self._named(found))
        if made:
            yield from made
        elif "name" in found and (self._names_any(found) or arguments_of(found) is not None):
            return  # without arguments, or of what nobody declared
        elif outside := self._spoken.search(lead):
            yield ToolCall(outside[0], found)
        elif "name" not in found and (inside := self._quoted.search(text)):
            own = found.get(inside[1])
            own = read_object(own) if isinstance(own, str) else own
            yield ToolCall(inside[1], own if isinstance(own, dict) else found)

    def _named(self, value: Any) -> Iterator[ToolCall]:
        """The calls anywhere in `value` that name a tool and its arguments."""
        if isinstance(value, list):
            for item in value:
                yield from self._named(item)
        elif isinstance(value, dict):
            name, arguments = self._names_any(value), arguments_of(value)
            if name and arguments is not None:
                yield ToolCall(name, arguments)
            elif not name and "name" not in value:
                for item in value.values():
                    yield from self._named(item)

    def _names_any(self, found: dict[str, Any]) -> str:
        """The tool that an object names: under `name`, if it has that, else under any key."""
        values = [found["name"]] if "name" in found else found.values()
        return next((value for value in values if isinstance(value, str) and value in self._names), "")


def arguments_of(found: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments in an object that names a tool, spelled out or as a string of JSON; None if it has none."""
    for key in ("arguments", "parameters"):
        value = found.get(key)
        value = read_object(value) if isinstance(value, str) else value
        if isinstance(value, dict):
            return value
    return None
