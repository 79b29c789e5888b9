"""JSON objects in what a model writes: found as the text arrives, and read with a little patience."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any


class ObjectScanner:
    """Finds objects, braces balanced outside of strings, in a text that arrives in pieces."""

    def __init__(self) -> None:
        self._text = ""
        self._at = self._start = 0
        self._depth = 0
        self._quoted = self._escaped = False

    @property
    def rest(self) -> str:
        """What came after the last object that was found."""
        return self._text

    def push(self, text: str) -> Iterator[tuple[str, str]]:
        """Every object that `text` completes, behind the text that stood between it and the one before."""
        self._text += text
        while self._at < len(self._text):
            character = self._text[self._at]
            self._at += 1
            if self._depth and self._inside_string(character):
                continue
            if character == "{":
                self._start = self._start if self._depth else self._at - 1
                self._depth += 1
            elif character == "}" and self._depth:
                self._depth -= 1
                if not self._depth:
                    found = self._text[: self._start], self._text[self._start : self._at]
                    self._text, self._at = self._text[self._at :], 0
                    yield found

    def _inside_string(self, character: str) -> bool:
        """Whether `character` belongs to a string, its quotes included."""
        if self._escaped:
            self._escaped = False
        elif character == '"':
            self._quoted = not self._quoted
        elif self._quoted and character == "\\":
            self._escaped = True
        elif not self._quoted:
            return False
        return True


def read_object(text: str) -> dict[str, Any] | None:
    """The object that `text` is, None if it is none. Raw line breaks in strings are let pass, numbers that no client
    could read are not; half a surrogate pair is U+FFFD, as in Go.
    """
    try:
        value = json.loads(text, strict=False, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        return None
    return _whole(value) if isinstance(value, dict) else None


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(digits)
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_whole(key): _whole(each) for key, each in value.items()}
    return [_whole(each) for each in value] if isinstance(value, list) else value
