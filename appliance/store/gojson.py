"""JSON and values printed as Go's standard library prints them: digests and `show` depend on every byte.

Sources: the documentation of Go's encoding/json, fmt and strconv.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

_HTML = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})
_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
            '"': '\\"', "\\": "\\\\"}  # fmt: skip


def encode(value: Any, sort_keys: bool = False) -> bytes:
    """Compact JSON with a trailing newline, `<`, `>` and `&` escaped.

    Go keeps the order of a struct's keys and sorts those of a map: `sort_keys` tells which one this is.
    Raises ValueError for numbers that JSON cannot write.
    """
    return (_json(value, sort_keys) + "\n").encode()


def _json(value: Any, sort_keys: bool) -> str:
    match value:
        case None | bool():
            return json.dumps(value)
        case str():
            whole = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            return json.dumps(whole, ensure_ascii=False).translate(_HTML)
        case int():
            return str(value)
        case float():
            return _json_float(value)
        case Mapping():
            items = sorted(value.items()) if sort_keys else value.items()
            return "{" + ",".join(f"{_json(k, False)}:{_json(v, sort_keys)}" for k, v in items) + "}"
        case list() | tuple():
            return "[" + ",".join(_json(item, sort_keys) for item in value) + "]"
    raise ValueError(f"JSON has no form for {type(value).__name__}")


def _json_float(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(f"JSON has no form for {value}")
    if value and not 1e-6 <= abs(value) < 1e21:
        return repr(value).replace("e-0", "e-")
    return _plain(value)


def _plain(value: float) -> str:
    """All digits, no exponent, no trailing zeros."""
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def go_syntax(value: Any) -> str:
    """A JSON value as Go's `%#v` prints it: strings quoted, numbers as the float64 that Go reads them as."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case str():
            return '"' + "".join(_quoted(char) for char in value) + '"'
        case int() | float():
            return _general(float(value))
    return json.dumps(value, ensure_ascii=False)


def _general(value: float) -> str:
    """Shortest form, with an exponent below 1e-4 and from 1e6 on."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    exponent = Decimal(repr(value)).adjusted()
    if -4 <= exponent < 6:
        return _plain(value)
    digits = "".join(map(str, Decimal(repr(value)).normalize().as_tuple().digits))
    mantissa = digits[0] + (f".{digits[1:]}" if len(digits) > 1 else "")
    return f"{'-' if value < 0 else ''}{mantissa}e{exponent:+03d}"


def _quoted(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
