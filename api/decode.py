"""Request bodies to msgspec structs, as leniently as Go's encoding/json and with its error texts.

The structs are the declaration: a field's type says what is accepted and what the errors call it. Two keys of
`msgspec.Meta(extra=...)` go beyond that: `go` names a Go type that has a name of its own, `unmarshal` is a
function that reads the JSON value by itself (Go's Unmarshaler); a struct with `go_alias` has an Unmarshaler that
decodes into a type of that name. Keys match whatever their case, unknown keys are ignored, null is absent, the
last of repeated keys wins. A field that is absent has its default, or else the zero value of its type.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import inspect

from api.json_syntax import Number, Object, Value, parse
from api.values import base64_bytes
from appliance.errors import InvalidRequest

T = TypeVar("T", bound=msgspec.Struct)

MAX_VALUE_DEPTH = 256
"""Free-form values (options, schemas) nested deeper than this are refused: what reads them recurses."""


def decode(kind: type[T], body: bytes) -> T:
    """Raises InvalidRequest: for malformed JSON, else for a value of the wrong type."""
    try:
        return _Decoder().whole(kind, parse(body), _Where())
    except RecursionError as error:
        raise InvalidRequest("exceeded max depth") from error


class _Where(NamedTuple):
    """The place of a value: the innermost struct and the keys that lead to it."""

    struct: str = ""
    path: tuple[str, ...] = ()


class _Decoder:
    """One `json.Unmarshal`: it goes on after a value of the wrong type, and reports the first in the end.

    What an Unmarshaler raises ends it at once, so that wins over an earlier error. `outer` is the struct that
    Go names in errors from inside an Unmarshaler, instead of the innermost.
    """

    def __init__(self, outer: str = "") -> None:
        self._outer = outer
        self._first_error: InvalidRequest | None = None

    def whole(self, kind: type[T], value: Value, where: _Where) -> T:
        """`value` as a struct, with nothing wrong in it."""
        result = self._struct(kind, value, where)
        if self._first_error:
            raise self._first_error
        return result

    def _struct(self, kind: type[T], value: Value, where: _Where) -> T:
        fields = _fields(kind)
        given: dict[str, Any] = {}
        if isinstance(value, Object):
            for key, member in value.members:
                field = fields.get(key.lower())
                if field and member is not None:
                    inner = _Where(kind.__name__, (*where.path, field.encode_name))
                    given[field.name] = self._value(field.type, member, inner)
        elif value is not None:
            self._mismatch(value, f"api.{_alias(kind) or kind.__name__}", where)
        zeros = {field.name: _zero(field.type) for field in fields.values() if field.required}
        return kind(**(zeros | given))

    def _value(self, declared: inspect.Type, value: Value, where: _Where) -> Any:
        kind, extra = _unwrapped(declared, text=_json_type(value) == "string")
        if "unmarshal" in extra:
            return extra["unmarshal"](value)
        if isinstance(kind, inspect.AnyType):
            return self._plain(value, where)
        if value is None:
            return _zero(kind)
        if isinstance(kind, inspect.StructType):
            if _alias(kind.cls):
                return _Decoder(self._outer or where.struct).whole(kind.cls, value, where)
            return self._struct(kind.cls, value, where)
        if isinstance(kind, inspect.DictType) and isinstance(value, Object):
            return {key: self._value(kind.value_type, member, where) for key, member in value.members}
        if isinstance(kind, inspect.ListType) and isinstance(value, list):
            return [self._value(kind.item_type, item, where) for item in value]
        if isinstance(kind, inspect.IntType) and isinstance(value, Number):
            return self._integer(value, where)
        if isinstance(kind, inspect.BoolType) and isinstance(value, bool):
            return value
        if isinstance(value, str) and not isinstance(value, Number):
            if isinstance(kind, inspect.StrType):
                return value
            if isinstance(kind, inspect.BytesType):
                return self._bytes(value)
        self._mismatch(value, _go_type(declared), where)
        return _zero(kind)

    def _integer(self, number: Number, where: _Where) -> int:
        value = _whole_number(number)
        if value is None or not -(2**63) <= value < 2**63:
            self._mismatch(number, "int", where, literal=f" {number}")
            return 0
        return value

    def _bytes(self, text: str) -> bytes:
        try:
            return base64_bytes(text)
        except InvalidRequest as error:
            self._first_error = self._first_error or error
            return b""

    def _plain(self, value: Value, where: _Where, depth: int = 0) -> Any:
        """A free-form value: dicts, lists, strings, ints where digits alone were written, else floats."""
        if depth > MAX_VALUE_DEPTH:
            raise InvalidRequest("exceeded max depth")
        if isinstance(value, Number):
            whole = _whole_number(value)
            if whole is not None:
                return whole
            if abs(number := float(value)) == float("inf"):
                self._mismatch(value, "float64", where, literal=f" {value}")
            return number
        if isinstance(value, Object):
            return {key: self._plain(member, where, depth + 1) for key, member in value.members}
        if isinstance(value, list):
            return [self._plain(item, where, depth + 1) for item in value]
        return value

    def _mismatch(self, value: Value, go_type: str, where: _Where, literal: str = "") -> None:
        place = f"struct field {self._outer or where.struct}.{'.'.join(where.path)}" if where.path else "value"
        error = InvalidRequest(f"json: cannot unmarshal {_json_type(value)}{literal} into Go {place} of type {go_type}")
        self._first_error = self._first_error or error


def _whole_number(number: Number) -> int | None:
    # 20 characters hold every 64-bit integer; Python refuses thousands of digits with an error of its own
    return int(number) if len(number) <= 20 and number.removeprefix("-").isdigit() else None


def _json_type(value: Value) -> str:
    names = {bool: "bool", Number: "number", str: "string", Object: "object", list: "array", type(None): "null"}
    return names[type(value)]


@lru_cache
def _fields(kind: type[msgspec.Struct]) -> dict[str, inspect.Field]:
    """Fields by their key in JSON, in lower case."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return {field.encode_name.lower(): field for field in info.fields}


def _unwrapped(kind: inspect.Type, text: bool = False) -> tuple[inspect.Type, dict[str, Any]]:
    """The type without its annotations and its `| None`, and what the annotations say.

    Of `str | something` it is `str` for a `text`.
    """
    extra: dict[str, Any] = {}
    while True:
        if isinstance(kind, inspect.Metadata):
            extra |= kind.extra or {}
            kind = kind.type
        elif isinstance(kind, inspect.UnionType):
            some = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
            strings = [each for each in some if isinstance(each, inspect.StrType)]
            kind = strings[0] if text and strings else next((each for each in some if each not in strings), some[0])
        else:
            return kind, extra


def _alias(kind: type[Any]) -> str:
    return getattr(kind, "go_alias", "")


def _go_type(declared: inspect.Type) -> str:
    kind, extra = _unwrapped(declared)
    if "go" in extra:
        return str(extra["go"])
    match kind:
        case inspect.StrType():
            return "string"
        case inspect.BoolType():
            return "bool"
        case inspect.IntType():
            return "int"
        case inspect.ListType():
            return f"[]{_go_type(kind.item_type)}"
        case inspect.DictType():
            return f"map[string]{_go_type(kind.value_type)}"
        case inspect.StructType():
            return f"api.{kind.cls.__name__}"
        case _:
            return "interface {}"


def _zero(declared: inspect.Type) -> Any:
    """Go's zero value."""
    kind, _ = _unwrapped(declared)
    match kind:
        case inspect.StrType():
            return ""
        case inspect.BytesType():
            return b""
        case inspect.BoolType():
            return False
        case inspect.IntType():
            return 0
        case inspect.ListType():
            return []
        case inspect.DictType():
            return {}
        case inspect.StructType():
            return kind.cls(**{field.name: _zero(field.type) for field in kind.fields if field.required})
        case _:
            return None
