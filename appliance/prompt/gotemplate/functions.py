"""The functions templates may call: Go's built-in ones and Ollama's.

Each takes the rendering's context first and raises FunctionError with Go's text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote_plus

from appliance.prompt.gotemplate.printing import sprint, sprintf, sprintln
from appliance.prompt.gotemplate.values import Alternatives, Struct, show, to_json, truth, type_name
from appliance.prompt.limits import Meter


class FunctionError(Exception):
    """The message is Go's."""


@dataclass(frozen=True, slots=True)
class Context:
    """What functions need of the rendering: its meter and the time."""

    meter: Meter
    now: datetime


@dataclass(frozen=True, slots=True)
class Function:
    """A function and how many arguments it takes; `most` None is any number."""

    call: Callable[..., Any]
    least: int
    most: int | None


def _compare(left: Any, right: Any) -> int:
    """-1, 0 or 1; numbers of all kinds compare, which Go allows between integers only."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (left, right))
    if numbers or (isinstance(left, str) and isinstance(right, str)):
        return int(left > right) - int(left < right)
    basic = (bool, int, float, str)
    if not isinstance(left, basic) or not isinstance(right, basic) or (type(left) is bool and type(right) is bool):
        raise FunctionError("invalid type for comparison")
    raise FunctionError("incompatible types for comparison")


def _equals(left: Any, right: Any) -> bool:
    if left is None or right is None:
        return left is right
    for value in (left, right):
        if not isinstance(value, bool | int | float | str):
            raise FunctionError(f"non-comparable type {show(value)[:100]}: {type_name(value)}")
    if isinstance(left, bool) and isinstance(right, bool):
        return left == right
    return _compare(left, right) == 0


def _eq(_: Context, first: Any, *others: Any) -> bool:
    if not others:
        raise FunctionError("missing argument for comparison")
    return any(_equals(first, other) for other in others)


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, list | Mapping) and not isinstance(value, Struct):
        return len(value)
    raise FunctionError("len of nil pointer" if value is None else f"len of type {type_name(value)}")


def _position(value: Any, size: int, highest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise FunctionError(f"cannot index slice/array with type {type_name(value)}")
    if not 0 <= value < size + highest:
        raise FunctionError(f"index out of range: {value}")
    return value


def _index(_: Context, value: Any, *indices: Any) -> Any:
    for index in indices:
        if value is None:
            raise FunctionError("index of untyped nil")
        if isinstance(value, str):
            value = value.encode("utf-8", "replace")[_position(index, _length(value), 0)]
        elif isinstance(value, list):
            value = value[_position(index, len(value), 0)]
        elif isinstance(value, Mapping) and not isinstance(value, Struct):
            if not isinstance(index, str):
                raise FunctionError(f"value has type {type_name(index)}; should be string")
            value = value.get(index)
        else:
            raise FunctionError(f"can't index item of type {type_name(value)}")
    return value


def _slice(_: Context, value: Any, *indices: Any) -> Any:
    if value is None:
        raise FunctionError("slice of untyped nil")
    if not isinstance(value, str | list):
        raise FunctionError(f"can't slice item of type {type_name(value)}")
    if len(indices) > (2 if isinstance(value, str) else 3):
        raise FunctionError(f"too many slice indexes: {len(indices)}")
    items: Any = value.encode("utf-8", "replace") if isinstance(value, str) else value
    bounds = [_position(index, len(items), 1) for index in indices]
    if bounds != sorted(bounds):
        raise FunctionError(f"invalid slice index: {bounds[0]} > {bounds[-1]}")
    part = items[slice(*(bounds[:2] if len(bounds) > 1 else [*bounds, None]))] if bounds else items
    return part.decode("utf-8", "replace") if isinstance(value, str) else part


def _text(context: Context, values: tuple[Any, ...]) -> str:
    return sprint(context.meter, ["<no value>" if value is None else value for value in values])


HTML = str.maketrans({"\0": "\ufffd", '"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;"})
JS = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D"}


def _js_escaped(character: str) -> str:
    if character in JS:
        return JS[character]
    return character if character.isprintable() else f"\\u{ord(character):04X}"


def _urlquery(context: Context, *values: Any) -> str:
    return quote_plus(_text(context, values), safe="", errors="replace")


def _printf(context: Context, layout: Any, *values: Any) -> str:
    if not isinstance(layout, str):
        raise FunctionError(f"wrong type for value; expected string; got {type_name(layout)}")
    return sprintf(context.meter, layout, values)


def _call(_: Context, function: Any, *__: Any) -> Any:
    raise FunctionError("call of nil" if function is None else f"non-function of type {type_name(function)}")


def _typescript(_: Context, schema: Any) -> str:
    if not isinstance(schema, Struct):
        return "any"
    kinds = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean", "null": "null"}
    kinds |= {"array": "any[]", "object": "Record<string, any>"}
    if alternatives := schema.get("AnyOf"):
        return " | ".join(_typescript(_, alternative) for alternative in alternatives)
    names = schema.get("Type")
    return " | ".join(kinds.get(name, "any") for name in names) if isinstance(names, Alternatives) and names else "any"


FUNCTIONS: Mapping[str, Function] = {
    "call": Function(_call, 1, None),
    "eq": Function(_eq, 1, None),
    "ne": Function(lambda _, left, right: not _equals(left, right), 2, 2),
    "lt": Function(lambda _, left, right: _compare(left, right) < 0, 2, 2),
    "le": Function(lambda _, left, right: _compare(left, right) <= 0, 2, 2),
    "gt": Function(lambda _, left, right: _compare(left, right) > 0, 2, 2),
    "ge": Function(lambda _, left, right: _compare(left, right) >= 0, 2, 2),
    "not": Function(lambda _, value: not truth(value), 1, 1),
    "len": Function(lambda _, value: _length(value), 1, 1),
    "index": Function(_index, 1, None),
    "slice": Function(_slice, 1, None),
    "print": Function(lambda context, *values: sprint(context.meter, values), 0, None),
    "printf": Function(_printf, 1, None),
    "println": Function(lambda context, *values: sprintln(context.meter, values), 0, None),
    "html": Function(lambda context, *values: _text(context, values).translate(HTML), 0, None),
    "js": Function(lambda context, *values: "".join(map(_js_escaped, _text(context, values))), 0, None),
    "urlquery": Function(
        lambda context, *values: quote_plus(_text(context, values), safe="", errors="replace"), 0, None
    ),
    "json": Function(lambda _, value: to_json(value), 1, 1),
    "currentDate": Function(lambda context, *_: f"{context.now:%Y-%m-%d}", 0, None),
    "yesterdayDate": Function(lambda context, *_: f"{context.now - timedelta(days=1):%Y-%m-%d}", 0, None),
    "toTypeScriptType": Function(_typescript, 1, 1),
}
SHORT_CIRCUIT = frozenset({"and", "or"})  # evaluated argument by argument, by the evaluator
NAMES = frozenset(FUNCTIONS) | SHORT_CIRCUIT
