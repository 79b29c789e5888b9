"""Calls written like source code: `name(key=value, …)` as in Python, `call:name{key:value, …}` as Gemma does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from appliance.errors import OutputError
from appliance.prompt.parsers.base import ToolCall
from appliance.prompt.parsers.values import SHOWN_CHARS, Unfinished, clean, malformed, number

NAME = re.compile(r"[^\W\d][\w.\-]*")
WORD = re.compile(r"[^\s,\]})]+")
MAX_DEPTH = 64

_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None, "none": None}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}


@dataclass(frozen=True, slots=True)
class Style:
    """How calls are written. `quotes` enclose strings without escapes, beside the usual two that have them."""

    prefix: str
    opening: str
    closing: str
    assign: str
    quotes: Sequence[str] = ()


PYTHON = Style("", "(", ")", "=")


def read_calls(text: str, style: Style) -> list[ToolCall]:
    """The calls that `text` consists of, with or without brackets around and commas between. Raises OutputError."""
    return _Reader(text, style).calls()


class _Reader:
    def __init__(self, text: str, style: Style) -> None:
        self._text = text
        self._style = style
        self._at = 0

    def calls(self) -> list[ToolCall]:
        bracketed, found = self._take("["), []
        while self._more() and not (bracketed and self._peek("]")):
            found.append(self._call())
            self._take(",")
        if (bracketed and not self._take("]")) or self._more() or not found:
            raise self._error("no list of calls")
        return found

    def _call(self) -> ToolCall:
        style = self._style
        if style.prefix:
            self._expect(style.prefix)
        name = self._match(NAME)
        if not name:
            raise self._error("no name of a function")
        self._expect(style.opening)
        return ToolCall(name, self._members(style.assign, style.closing, 0))

    def _members(self, assign: str, closing: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self._take(closing):
            string = self._string()
            name = self._match(NAME) if string is None else string
            if name is None:
                raise self._error("no name of an argument")
            self._expect(assign)
            found[name] = self._value(depth)
            if not self._take(",") and not self._peek(closing):
                raise self._error(f"neither , nor {closing} behind an argument")
        return found

    def _value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise self._error(f"nested more than {MAX_DEPTH} deep")
        string = self._string()
        if string is not None:
            return string
        if self._take("{"):
            return self._members(":", "}", depth + 1)
        if self._take("["):
            return self._items(depth + 1)
        word = self._match(WORD)
        if word is None:
            raise self._error("no value of an argument")
        if word.lower() in _WORDS:
            return _WORDS[word.lower()]
        try:
            return number(word)
        except (OutputError, ValueError):
            return word

    def _items(self, depth: int) -> list[Any]:
        found: list[Any] = []
        while not self._take("]"):
            found.append(self._value(depth))
            if not self._take(",") and not self._peek("]"):
                raise self._error("neither , nor ] behind an item")
        return found

    def _string(self) -> str | None:
        for quote in self._style.quotes:
            if self._take(quote):
                end = self._text.find(quote, self._at)
                if end < 0:
                    raise Unfinished(f"the model wrote a string without an end: {self._text[-SHOWN_CHARS:]!r}")
                found, self._at = self._text[self._at : end], end + len(quote)
                return found
        for quote in ('"', "'"):
            if self._take(quote):
                return self._escaped(quote)
        return None

    def _escaped(self, quote: str) -> str:
        pieces: list[str] = []
        while self._at < len(self._text):
            character = self._text[self._at]
            self._at += 1
            if character == quote:
                return str(clean("".join(pieces)))
            if character == "\\" and self._at < len(self._text):
                character = self._escape()
            pieces.append(character)
        raise Unfinished(f"the model wrote a string without an end: {self._text[-SHOWN_CHARS:]!r}")

    def _escape(self) -> str:
        character = self._text[self._at]
        self._at += 1
        if character == "u" and re.match("[0-9a-fA-F]{4}", self._text[self._at :]):
            self._at += 4
            return chr(int(self._text[self._at - 4 : self._at], 16))
        if character in "\\'\"":
            return character
        return _ESCAPES.get(character, "\\" + character)

    def _more(self) -> bool:
        self._skip()
        return self._at < len(self._text)

    def _peek(self, token: str) -> bool:
        self._skip()
        return self._text.startswith(token, self._at)

    def _take(self, token: str) -> bool:
        found = self._peek(token)
        self._at += len(token) if found else 0
        return found

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise self._error(f"{token} is missing")

    def _match(self, pattern: re.Pattern[str]) -> str | None:
        self._skip()
        found = pattern.match(self._text, self._at)
        if found:
            self._at = found.end()
        return found[0] if found else None

    def _skip(self) -> None:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1

    def _error(self, what: str) -> Exception:
        return malformed(what, self._text[max(0, self._at - 20) :] or self._text)
