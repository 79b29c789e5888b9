"""JSON text as Go's encoding/json reads it: the same leniencies, and the same words for what is wrong.

Python's scanner does the work. Only when it refuses a text does `syntax_error` walk through it again to find
the words.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import Any, NoReturn, TypeAlias

from appliance.errors import InvalidRequest

MAX_DEPTH = 10_000
_BLANK = b" \t\r\n"
_STRING_BODY = re.compile(rb'(?:[^"\\\x00-\x1f]+|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*')
_DIGITS = re.compile(rb"[0-9]*")
_HEX = frozenset(b"0123456789abcdefABCDEF")
_LITERALS = {literal[0]: literal for literal in (b"true", b"false", b"null")}
_SURROGATE_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}(?P<low>\\u[dD][c-fC-F][0-9a-fA-F]{2})?|(?P<lone>u[dD][c-fC-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


class Number(str):
    """The digits of a JSON number, kept until it is known what they must become."""


class Object:
    """A JSON object: its members in their order, repeated keys included."""

    __slots__ = ("members",)

    def __init__(self, members: list[tuple[str, Any]]) -> None:
        self.members = members


Value: TypeAlias = str | bool | Number | Object | list[Any] | None


def parse(data: bytes) -> Value:
    """The first JSON value of `data`; what follows it is ignored. Raises InvalidRequest in Go's words.

    Invalid UTF-8 and lone surrogates become U+FFFD.
    """
    text = data.decode("utf-8", "go-replace").lstrip(_BLANK.decode())
    if not text:
        raise InvalidRequest("missing request body")
    if "\\ud" in text or "\\uD" in text:
        text = _SURROGATE_ESCAPE.sub(_without_lone_surrogate, text)
    try:
        value: Value = _DECODER.raw_decode(text)[0]
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(syntax_error(data) or "exceeded max depth") from error
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


_DECODER = json.JSONDecoder(
    object_pairs_hook=Object, parse_float=Number, parse_int=Number, parse_constant=_refuse_constant
)


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error("go-replace", _replace_each_byte)


def _without_lone_surrogate(escape: re.Match[str]) -> str:
    starts_pair = escape[0][2:3] in ("d", "D") and escape[0][1] == "u"
    return "\\ufffd" if starts_pair and not escape["low"] else escape[0]


def quoted(text: str) -> str:
    """`text` as Go's %q prints it."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\a": "\\a"}
    escapes |= {"\b": "\\b", "\f": "\\f", "\v": "\\v"}
    return '"' + "".join(escapes.get(char) or (char if char.isprintable() else _escaped(char)) for char in text) + '"'


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class _Found(Exception):
    """Carries the words from where the fault was found."""


def syntax_error(data: bytes) -> str:
    """Go's words for the first fault in `data`; empty when its first value is sound."""
    try:
        _walk(data)
    except _Found as found:
        return str(found)
    return ""


def _walk(data: bytes) -> None:
    """Step through one value, iteratively: hostile nesting must not exhaust the stack."""
    closers = bytearray()  # of the containers that are open
    expected = "value"
    position = 0
    while True:
        position = _skip_blank(data, position)
        char = _at(data, position)
        if expected == "value or ]" and char == ord("]"):
            closers.pop()
            expected, position = "next", position + 1
        elif expected.startswith("value"):
            if char in b"{[":
                closers.append(ord("}" if char == ord("{") else "]"))
                if len(closers) > MAX_DEPTH:
                    _fail(char, "exceeded max depth")
                expected, position = ("key or }" if char == ord("{") else "value or ]"), position + 1
            else:
                expected, position = "next", _skip_scalar(data, position)
        elif expected == "key or }" and char == ord("}"):
            closers.pop()
            expected, position = "next", position + 1
        elif expected.startswith("key"):
            if char != ord('"'):
                _fail(char, "looking for beginning of object key string")
            position = _skip_blank(data, _skip_string(data, position))
            if _at(data, position) != ord(":"):
                _fail(data[position], "after object key")
            expected, position = "value", position + 1
        elif char == closers[-1]:
            closers.pop()
            position += 1
        elif char == ord(","):
            expected, position = ("key" if closers[-1] == ord("}") else "value"), position + 1
        else:
            _fail(char, "after object key:value pair" if closers[-1] == ord("}") else "after array element")
        if expected == "next" and not closers:
            return


def _skip_blank(data: bytes, position: int) -> int:
    while position < len(data) and data[position] in _BLANK:
        position += 1
    return position


def _skip_scalar(data: bytes, position: int) -> int:
    char = data[position]
    if char == ord('"'):
        return _skip_string(data, position)
    if char == ord("-") or char in b"0123456789":
        return _skip_number(data, position)
    literal = _LITERALS.get(char)
    if literal is None:
        _fail(char, "looking for beginning of value")
    for expected in literal[1:]:
        position += 1
        if _at(data, position) != expected:
            _fail(data[position], f"in literal {literal.decode()} (expecting '{chr(expected)}')")
    return position + 1


def _skip_string(data: bytes, position: int) -> int:
    match = _STRING_BODY.match(data, position + 1)
    position = match.end() if match else position + 1
    char = _at(data, position)
    if char == ord('"'):
        return position + 1
    if char != ord("\\"):
        _fail(char, "in string literal")
    if _at(data, position + 1) != ord("u"):
        _fail(data[position + 1], "in string escape code")
    position += 2
    while _at(data, position) in _HEX:
        position += 1
    _fail(data[position], "in \\u hexadecimal character escape")


def _skip_number(data: bytes, position: int) -> int:
    if data[position] == ord("-"):
        position += 1
        if _at(data, position) not in b"0123456789":
            _fail(data[position], "in numeric literal")
    position = position + 1 if data[position] == ord("0") else _skip_digits(data, position)
    if data[position : position + 1] == b".":
        position = _skip_digits(data, position + 1, "after decimal point in numeric literal")
    if data[position : position + 1] in (b"e", b"E"):
        position += 2 if data[position + 1 : position + 2] in (b"+", b"-") else 1
        position = _skip_digits(data, position, "in exponent of numeric literal")
    return position


def _skip_digits(data: bytes, position: int, context: str = "in numeric literal") -> int:
    """The end of the digits at `position`, of which there must be one."""
    if _at(data, position) not in b"0123456789":
        _fail(data[position], context)
    match = _DIGITS.match(data, position)
    return match.end() if match else position


def _at(data: bytes, position: int) -> int:
    if position >= len(data):
        raise _Found("unexpected EOF")
    return data[position]


def _fail(char: int, context: str) -> NoReturn:
    shown = {"'": "\\'", '"': '"'}.get(chr(char)) or quoted(chr(char))[1:-1]
    raise _Found(f"invalid character '{shown}' {context}")
