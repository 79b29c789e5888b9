"""Values that models write into tool calls, in JSON or as plain text whose type the tool declares."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from appliance.errors import OutputError

Schema = Mapping[str, Any]

SHOWN_CHARS = 200

_STRUCTURE = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\]]', re.DOTALL)


class Unfinished(OutputError):
    """The text ends within a string, so that what looked like its end belongs to it."""


def malformed(what: str, text: str) -> OutputError:
    """The error for markup that cannot be read, with its beginning."""
    shown = text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"
    return OutputError(f"the model wrote a tool call that cannot be read: {what}: {shown!r}")


def read_json(text: str) -> Any:
    """A JSON value. Raises Unfinished, OutputError."""
    try:
        value = json.loads(text, parse_constant=_refuse)
        return clean(value)
    except (ValueError, RecursionError) as error:
        if ends_in_string(text):
            raise Unfinished(f"the model wrote a string without an end: {text[:SHOWN_CHARS]!r}") from error
        raise malformed("no valid JSON", text) from error


def read_object(text: str) -> dict[str, Any]:
    """A JSON object. Raises Unfinished, OutputError."""
    value = read_json(text)
    if not isinstance(value, dict):
        raise malformed("no JSON object", text)
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def clean(value: Any) -> Any:
    """`value` of JSON with U+FFFD for the halves of surrogate pairs, which no answer can carry."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {clean(name): clean(item) for name, item in value.items()}
    return value


def ends_in_string(text: str) -> bool:
    """Whether a text of JSON ends between the quotes of a string."""
    inside, escaped = False, False
    for character in text:
        if escaped:
            escaped = False
        elif character == '"':
            inside = not inside
        elif inside and character == "\\":
            escaped = True
    return inside


def object_end(text: str) -> int:
    """How many characters the JSON object or array has that `text` begins with, 0 if it does not end there."""
    depth = 0
    for found in _STRUCTURE.finditer(text):
        match found[0]:
            case "{" | "[":
                depth += 1
            case "}" | "]":
                depth -= 1
                if depth <= 0:
                    return found.end()
            case '"':  # of a string without an end
                return 0
    return 0


def typed(text: str, schema: Schema) -> Any:
    """A parameter that was written as plain text, as the first type that `schema` declares and the text has."""
    types = declared_types(schema)
    bare = text.strip()
    if bare.lower() in ("null", "none") and (not types or "null" in types):
        return None
    for kind in ("boolean", "integer", "number", "array", "object"):
        if kind in types:
            try:
                return _READ[kind](bare)
            except (OutputError, ValueError, KeyError):
                continue
    return text


def declared_types(schema: Schema) -> set[str]:
    """The types of a parameter, alternatives included."""
    declared = schema.get("type") or ()
    found = {declared} if isinstance(declared, str) else set(declared)
    for alternative in schema.get("anyOf") or ():
        found |= declared_types(alternative)
    return found


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def number(text: str) -> int | float:
    """A finite number as JSON writes it. Raises OutputError, ValueError."""
    value = read_json(text)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(text)
    return value


def _integer(text: str) -> int:
    value = number(text)
    if value != int(value):
        raise ValueError(text)
    return int(value)


def _array(text: str) -> list[Any]:
    value = read_json(text)
    if not isinstance(value, list):
        raise ValueError(text)
    return value


_READ = {"boolean": _boolean, "integer": _integer, "number": number, "array": _array, "object": read_object}
