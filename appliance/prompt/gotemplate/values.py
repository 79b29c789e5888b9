"""Template values and how Go prints them.

Strings, ints, floats, booleans, lists and dictionaries are themselves; None is nil. Beside them stand what Go
has and Python has not: structs, and lists and maps that print as JSON. A string's bytes that are no UTF-8, which
slicing can make, are surrogates, as Python's "surrogateescape" has them.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

SURROGATE = re.compile("[\ud800-\udfff]")
HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # of a surrogate pair: from outside, no stand-in for a byte


class Struct(Mapping[str, Any]):
    """Named fields in a fixed order; asking for another is an error.

    `type_name` is for error texts, `json` has its JSON members. It prints as Go prints structs, or as JSON if
    `prints_json`.
    """

    def __init__(
        self,
        type_name: str,
        fields: Mapping[str, Any],
        json: Mapping[str, Any] | None = None,
        prints_json: bool = False,
    ) -> None:
        self.type_name = type_name
        self.json = fields if json is None else json
        self.prints_json = prints_json
        self._fields = fields

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


class JSONList(list[Any]):
    """A list that prints as JSON."""


class NilList(list[Any]):
    """A field's list that nobody set: empty, equal to nil, null in JSON."""


class JSONMap(dict[str, Any]):
    """A map that prints as JSON, keys sorted unless `ordered`."""

    def __init__(self, members: Mapping[str, Any], ordered: bool = False) -> None:
        super().__init__(members)
        self.ordered = ordered


class Alternatives(list[str]):
    """The types of a JSON schema: one of them stands for itself, in print and in JSON."""


def encoded(text: str) -> bytes:
    """A string's bytes."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return HALF.sub("\ufffd", text).encode("utf-8", "surrogateescape")


def decoded(content: bytes) -> str:
    """The string of these bytes."""
    return content.decode("utf-8", "surrogateescape")


def readable(text: str) -> str:
    """`text` with U+FFFD for every byte that is no UTF-8."""
    return SURROGATE.sub("\ufffd", decoded(encoded(text))) if SURROGATE.search(text) else text


def is_character(code: int) -> bool:
    """Whether there is a character of that code point."""
    return 0 <= code <= 0x10FFFF and not 0xD800 <= code < 0xE000


def truth(value: Any) -> bool:
    """Go's truth: not the zero value of its type; structs are always true."""
    return isinstance(value, Struct) or bool(value)


def type_name(value: Any) -> str:
    """What Go would call the value's type."""
    if isinstance(value, Struct):
        return value.type_name
    names = {bool: "bool", int: "int", float: "float64", str: "string", bytes: "[]uint8", type(None): "<nil>"}
    if type(value) in names:
        return names[type(value)]
    return "map[string]interface {}" if isinstance(value, Mapping) else "[]interface {}"


def has_own_text(value: Any) -> bool:
    """Whether the value says itself how it prints, as Go's Stringers do."""
    own = isinstance(value, Struct) and value.prints_json
    return own or isinstance(value, JSONList | JSONMap | Alternatives)


def show(value: Any) -> str:
    """A value as Go's %v prints it."""
    if isinstance(value, str):
        return value
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return show_float(value)
    if isinstance(value, Alternatives):
        return value[0] if len(value) == 1 else "[" + " ".join(value) + "]"
    if has_own_text(value):
        return to_json(value)
    if isinstance(value, Struct):
        return "{" + " ".join(map(show, value.values())) + "}"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{show(value[key])}" for key in sorted(value, key=encoded)) + "]"
    return "[" + " ".join(map(show, value)) + "]"


def show_float(value: float) -> str:
    """The shortest decimal that reads back the same, as Go's %g chooses between plain and exponent."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return _decimal(value, -4, 6)


def _decimal(value: float, smallest: int, largest: int) -> str:
    sign, digits, _ = Decimal(repr(value)).as_tuple()
    exponent = Decimal(repr(value)).adjusted() if value else 0
    if smallest <= exponent < largest:
        plain = f"{Decimal(repr(value)):f}"
        return plain.rstrip("0").rstrip(".") if "." in plain else plain
    spelled = "".join(map(str, digits)).rstrip("0")
    mantissa = spelled[0] + (f".{spelled[1:]}" if len(spelled) > 1 else "")
    return f"{'-' if sign else ''}{mantissa}e{'+' if exponent >= 0 else '-'}{abs(exponent):02d}"


ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
ESCAPES |= {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
ESCAPES |= {chr(code): f"\\u{code:04x}" for code in range(32) if chr(code) not in ESCAPES}
ESCAPED = str.maketrans(ESCAPES)


def to_json(value: Any) -> str:
    """JSON as Go's encoding/json writes it: no spaces, maps sorted, <, > and & escaped."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return '"' + SURROGATE.sub(r"\\ufffd", decoded(encoded(value)).translate(ESCAPED)) + '"'
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return ""  # Go's encoder fails, and its caller looks away
        return _decimal(value, -6, 21).replace("e-0", "e-")
    if isinstance(value, bytes):
        return '"' + base64.b64encode(value).decode("ascii") + '"'
    if isinstance(value, Alternatives) and len(value) == 1:
        return to_json(value[0])
    if isinstance(value, Struct):
        return _members(value.json, ordered=True)
    if isinstance(value, NilList):
        return "null"
    if isinstance(value, Mapping):
        return _members(value, ordered=isinstance(value, JSONMap) and value.ordered)
    return "[" + ",".join(map(to_json, value)) + "]"


def _members(members: Mapping[str, Any], ordered: bool) -> str:
    keys = members if ordered else sorted(members, key=encoded)
    return "{" + ",".join(f"{to_json(key)}:{to_json(members[key])}" for key in keys) + "}"
