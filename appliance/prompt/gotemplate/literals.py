"""Go's literals to values: numbers, characters, quoted strings (after Go's strconv)."""

from __future__ import annotations

import math
import re

from appliance.prompt.gotemplate.lexer import quote


class BadLiteral(ValueError):
    """The message is Go's."""


ESCAPE = re.compile(r"\\(?:x[0-9a-fA-F]{2}|[0-7]{3}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[abfnrtv\\'\"])")
NAMED = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "'": 39, '"': 34}


def read_string(spelled: str) -> str:
    """The text of a double-quoted string; bytes that are no UTF-8 become U+FFFD."""
    return _unescape(spelled[1:-1], forbidden="\\'").decode("utf-8", "replace")


def read_character(spelled: str) -> int:
    """The code point of a character constant."""
    content = spelled[1:-1]
    escape = ESCAPE.match(content)
    first = escape[0] if escape else content[:1]
    if first in ("", "\\"):
        raise BadLiteral("invalid syntax")
    text = _unescape(first, forbidden='\\"')
    if first != content:
        raise BadLiteral(f"malformed character constant: {spelled}")
    return text[0] if len(text) == 1 else ord(text.decode("utf-8", "replace"))  # \xff is a code point here


def read_number(spelled: str) -> int | float:
    """An int of 64 bits, or a float where the spelling has a point or an exponent."""
    if spelled.endswith("i"):
        raise BadLiteral(f"complex numbers are not supported: {quote(spelled)}")
    hexadecimal = spelled.lstrip("+-")[:2].lower() == "0x"
    try:
        if hexadecimal and "p" in spelled.lower():
            return float.fromhex(spelled.replace("_", ""))
        if "." in spelled or (not hexadecimal and "e" in spelled.lower()):
            return _finite(float(spelled))
        octal = re.fullmatch(r"([+-]?)0_?([0-7_]+)", spelled)
        value = int(f"{octal[1]}0o{octal[2]}" if octal else spelled, 0)
    except (ValueError, OverflowError) as error:
        decimal = re.fullmatch(r"[+-]?\d+", spelled)  # Go reads 09 as a float, and takes it for too large an integer
        problem = "integer overflow" if decimal else "illegal number syntax"
        raise BadLiteral(f"{problem}: {quote(spelled)}") from error
    if not -(2**63) <= value < 2**63:
        raise BadLiteral(f"integer overflow: {quote(spelled)}")
    return value


def _finite(value: float) -> float:
    if math.isinf(value):
        raise OverflowError
    return value


def _unescape(content: str, forbidden: str) -> bytes:
    pieces: list[bytes] = []
    position = 0
    while (slash := content.find("\\", position)) >= 0:
        escape = ESCAPE.match(content, slash)
        if not escape or escape[0] == forbidden:
            raise BadLiteral("invalid syntax")
        pieces += [content[position:slash].encode("utf-8", "replace"), _escaped(escape[0][1:])]
        position = escape.end()
    return b"".join(pieces) + content[position:].encode("utf-8", "replace")


def _escaped(code: str) -> bytes:
    if code[0] in NAMED:
        return bytes([NAMED[code[0]]])
    value = int(code, 8) if code[0].isdigit() else int(code[1:], 16)
    if code[0] in "x01234567":
        if value > 255:
            raise BadLiteral("invalid syntax")
        return bytes([value])
    if value > 0x10FFFF or 0xD800 <= value < 0xE000:
        raise BadLiteral("invalid syntax")
    return chr(value).encode()
