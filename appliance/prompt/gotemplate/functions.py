"""The functions templates may call: Go's built-in ones and Ollama's.

Each takes the rendering's context first and raises FunctionError with Go's text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import quote_plus

from appliance.prompt.gotemplate.formatting import Directive, Formatter, Unprintable
from appliance.prompt.gotemplate.printing import sprint, sprintf, sprintln
from appliance.prompt.gotemplate.values import (
    Alternatives,
    NilList,
    Struct,
    decoded,
    encoded,
    show,
    to_json,
    truth,
    type_name,
)
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
    """A function and how many arguments it takes; `most` None is any number. `first` is what the first one must be."""

    call: Callable[..., Any]
    least: int
    most: int | None
    first: type = object


def _compare(left: Any, right: Any) -> int:
    """-1, 0 or 1."""
    left, right = _basic(left), _basic(right)
    if type(left) is not type(right):
        raise FunctionError("incompatible types for comparison")
    if isinstance(left, bool):
        raise FunctionError("invalid type for comparison")
    return int(left > right) - int(left < right)


def _basic(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str):
        raise FunctionError("invalid type for comparison")
    return value


def _equals(context: Context, left: Any, right: Any) -> bool:
    if left is None or right is None:
        return _is_nil(left) and _is_nil(right)
    basic = [isinstance(value, bool | int | float | str) for value in (left, right)]
    if all(basic) and type(left) is type(right):
        return bool(left == right)
    if any(basic):
        raise FunctionError("incompatible types for comparison")
    if _is_nil(left) or _is_nil(right):
        return _is_nil(left) and _is_nil(right)
    text = Formatter(context.meter, Directive("s")).argument
    if isinstance(left, list) is not isinstance(right, list):
        kinds = f"{text(left)}: {type_name(left)}, {type_name(right)}: {show(right)}"
        raise FunctionError(f"non-comparable types {kinds}")
    raise FunctionError(f"non-comparable type {text(right)}: {type_name(right)}")


def _is_nil(value: Any) -> bool:
    return value is None or isinstance(value, NilList)


def _eq(context: Context, first: Any, *others: Any) -> bool:
    if not others:
        raise FunctionError("missing argument for comparison")
    return any(_equals(context, first, other) for other in others)


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(encoded(value))
    if isinstance(value, list | Mapping | bytes) and not isinstance(value, Struct):
        return len(value)
    raise FunctionError("len of nil pointer" if value is None else f"len of type {type_name(value)}")


def _position(value: Any, size: int) -> int:
    if type(value) is not int:
        kind = "nil" if value is None else f"type {type_name(value)}"
        raise FunctionError(f"cannot index slice/array with {kind}")
    if not 0 <= value <= size:
        raise FunctionError(f"index out of range: {value}")
    return value


def _element(value: str | list[Any] | bytes, index: Any) -> Any:
    items: Any = encoded(value) if isinstance(value, str) else value
    position = _position(index, len(items))
    if position == len(items):
        raise FunctionError(f"reflect: {'string' if isinstance(value, str) else 'slice'} index out of range")
    return items[position]


def _index(_: Context, value: Any, *indices: Any) -> Any:
    if value is None:
        raise FunctionError("index of untyped nil")
    for index in indices:
        if value is None:
            raise FunctionError("index of nil pointer")
        if isinstance(value, str | list | bytes):
            value = _element(value, index)
        elif isinstance(value, Mapping) and not isinstance(value, Struct):
            if not isinstance(index, str):
                kind = (
                    "value is nil; should be of type"
                    if index is None
                    else f"value has type {type_name(index)}; should be"
                )
                raise FunctionError(f"{kind} string")
            value = value.get(index)
        else:
            raise FunctionError(f"can't index item of type {type_name(value)}")
    return value


def _slice(_: Context, value: Any, *indices: Any) -> Any:
    if value is None:
        raise FunctionError("slice of untyped nil")
    if len(indices) > 3:
        raise FunctionError(f"too many slice indexes: {len(indices)}")
    if isinstance(value, str) and len(indices) == 3:
        raise FunctionError("cannot 3-index slice a string")
    if not isinstance(value, str | list | bytes):
        raise FunctionError(f"can't slice item of type {type_name(value)}")
    items: Any = encoded(value) if isinstance(value, str) else value
    bounds = [0, len(items), len(items)]
    for i, index in enumerate(indices):
        bounds[i] = _position(index, len(items))
    for low, high in pairwise(bounds):
        if low > high:
            raise FunctionError(f"invalid slice index: {low} > {high}")
    part = items[bounds[0] : bounds[1]]
    return decoded(part) if isinstance(value, str) else type(value)(part)


def _text(context: Context, values: tuple[Any, ...]) -> str:
    return sprint(context.meter, ["<no value>" if value is None else value for value in values])


HTML = str.maketrans({"\0": "\ufffd", '"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;"})
JS = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D"}


def _js_escaped(character: str) -> str:
    if character in JS:
        return JS[character]
    return character if character.isprintable() else f"\\u{ord(character):04X}"


def _urlquery(context: Context, *values: Any) -> str:
    return quote_plus(encoded(_text(context, values)), safe="")


def _printf(context: Context, layout: str, *values: Any) -> str:
    try:
        return sprintf(context.meter, layout, values)
    except Unprintable as problem:
        raise FunctionError(str(problem)) from problem


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
    "ne": Function(lambda context, left, right: not _equals(context, left, right), 2, 2),
    "lt": Function(lambda _, left, right: _compare(left, right) < 0, 2, 2),
    "le": Function(lambda _, left, right: _compare(left, right) <= 0, 2, 2),
    "gt": Function(lambda _, left, right: _compare(left, right) > 0, 2, 2),
    "ge": Function(lambda _, left, right: _compare(left, right) >= 0, 2, 2),
    "not": Function(lambda _, value: not truth(value), 1, 1),
    "len": Function(lambda _, value: _length(value), 1, 1),
    "index": Function(_index, 1, None),
    "slice": Function(_slice, 1, None),
    "print": Function(lambda context, *values: sprint(context.meter, values), 0, None),
    "printf": Function(_printf, 1, None, str),
    "println": Function(lambda context, *values: sprintln(context.meter, values), 0, None),
    "html": Function(lambda context, *values: _text(context, values).translate(HTML), 0, None),
    "js": Function(lambda context, *values: "".join(map(_js_escaped, _text(context, values))), 0, None),
    "urlquery": Function(_urlquery, 0, None),
    "json": Function(lambda _, value: to_json(value), 1, 1),
    "currentDate": Function(lambda context, *_: f"{context.now:%Y-%m-%d}", 0, None),
    "yesterdayDate": Function(lambda context, *_: f"{context.now - timedelta(days=1):%Y-%m-%d}", 0, None),
    "toTypeScriptType": Function(_typescript, 1, 1, Struct),
}
SHORT_CIRCUIT = frozenset({"and", "or"})  # evaluated argument by argument, by the evaluator
NAMES = frozenset(FUNCTIONS) | SHORT_CIRCUIT
