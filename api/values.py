"""Single values that clients write in Go's notation: durations, base64, `keep_alive`, `think`."""

from __future__ import annotations

import binascii
import re

from api.json_syntax import Number, Object, Value, quoted
from appliance.core import FOREVER_S, Think
from appliance.errors import InvalidRequest

_UNITS_NS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,  # U+00B5
    "μs": 10**3,  # U+03BC
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_DURATION_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]*)")
_MAX_NS = 2**63 - 1
_THINK_LEVELS: tuple[Think, ...] = ("high", "medium", "low", "max")
_THINK_CHOICES = '"high", "medium", "low", "max", true, or false'
_GO_TYPES: tuple[tuple[type, str], ...] = (
    (bool, "bool"),
    (Object, "map[string]interface {}"),
    (list, "[]interface {}"),
)


def parse_duration_ns(text: str) -> int:
    """Nanoseconds of a Go duration such as `1h30m` or `-1.5s`; raises InvalidRequest in Go's words."""
    invalid = InvalidRequest(f"time: invalid duration {_time_quoted(text)}")
    body = text[1:] if text[:1] in ("-", "+") else text
    if body == "0":
        return 0
    if not body:
        raise invalid
    total = 0
    position = 0
    while position < len(body):
        part = _DURATION_PART.match(body, position)
        whole, fraction, unit = part.groups() if part else ("", "", "")
        if not whole and not fraction:
            raise invalid
        if not unit:
            raise InvalidRequest(f"time: missing unit in duration {_time_quoted(text)}")
        if unit not in _UNITS_NS:
            raise InvalidRequest(f"time: unknown unit {_time_quoted(unit)} in duration {_time_quoted(text)}")
        if len(whole) > 19:
            raise invalid
        fraction = (fraction or "")[:18]  # more digits are below a nanosecond in every unit
        total += (int(whole or 0) * 10 ** len(fraction) + int(fraction or 0)) * _UNITS_NS[unit] // 10 ** len(fraction)
        if total > _MAX_NS:
            raise invalid
        position = part.end() if part else len(body)
    return -total if text[0] == "-" else total


def _time_quoted(text: str) -> str:
    """Go's `time` quotes bytes, not characters."""
    plain = {ord('"'): '\\"', ord("\\"): "\\\\"}
    data = text.encode("utf-8", "surrogatepass")
    return '"' + "".join(plain.get(b) or (chr(b) if 0x20 <= b < 0x80 else f"\\x{b:02x}") for b in data) + '"'


def keep_alive_s(value: Value) -> float:
    """Seconds that a model stays loaded: of a number, or of a duration. Negative is FOREVER_S."""
    if isinstance(value, Number):
        seconds = float(value)
    elif isinstance(value, str):
        seconds = parse_duration_ns(value) / 1e9
    else:
        named = next(name for kind, name in _GO_TYPES if isinstance(value, kind))
        raise InvalidRequest(f"Unsupported type: '{named}'")
    return FOREVER_S if seconds < 0 or seconds >= _MAX_NS / 1e9 else int(seconds * 1e9) / 1e9


def think(value: Value) -> Think:
    """`think` as a boolean or a level."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Number) or not isinstance(value, str):
        raise InvalidRequest(f"think must be a boolean or string ({_THINK_CHOICES})")
    for level in _THINK_LEVELS:
        if value == level:
            return level
    raise InvalidRequest(f"invalid think value: {quoted(value)} (must be {_THINK_CHOICES})")


def base64_bytes(text: str) -> bytes:
    """Bytes of standard padded base64, line ends ignored. Raises InvalidRequest with the position of the fault."""
    data = text.encode("utf-8", "surrogatepass")
    try:
        return binascii.a2b_base64(data.translate(None, b"\r\n"), strict_mode=True)
    except binascii.Error as error:
        raise InvalidRequest(f"illegal base64 data at input byte {_base64_fault(data)}") from error


def _base64_fault(data: bytes) -> int:
    """The offset that Go's decoder names for `data`, which is not valid base64."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    filled = 0  # characters of the current group of four
    position = 0
    while position < len(data):
        char = data[position]
        if char in alphabet:
            filled = (filled + 1) % 4
        elif char not in b"\r\n":
            break
        position += 1
    if position == len(data):
        return len(data) - filled
    if data[position] != ord("=") or filled < 2:
        return position
    end = _skip_line_ends(data, position + 1)
    if filled == 2:
        if end == len(data):
            return len(data)
        if data[end] != ord("="):
            return end - 1
        end = _skip_line_ends(data, end + 1)
    return end


def _skip_line_ends(data: bytes, position: int) -> int:
    while position < len(data) and data[position] in b"\r\n":
        position += 1
    return position
