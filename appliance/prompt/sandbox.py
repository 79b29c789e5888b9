"""The jinja2 environment that chat templates run in: transformers' dialect, sandboxed and metered.

jinja2's sandbox keeps templates away from Python's insides. It does not keep them from running for ever or from
filling memory, so here every loop turn, call, operator, filter and piece of output passes a Meter, and nothing
that could have more characters than its arguments is built before their number is known; lists of a text's parts
are counted afterwards. What no chat template needs is left out: attributes beyond the plain methods of strings,
lists and dictionaries, and filters whose regular expressions may backtrack.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from types import BuiltinMethodType, GeneratorType
from typing import Any

import jinja2
from jinja2 import filters, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Cycler, Joiner, Namespace
from jinja2.visitor import NodeTransformer

from appliance.errors import InvalidTemplate
from appliance.prompt.limits import Meter

METER: ContextVar[Meter] = ContextVar("METER")  # of the rendering (or compilation) that runs

LEFT_OUT = {"filesizeformat", "pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr"}
STRING_METHODS = """capitalize casefold center count endswith find format format_map index isalnum isalpha isascii
    isdecimal isdigit islower isnumeric isspace istitle isupper join ljust lower lstrip partition removeprefix
    removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip swapcase
    title upper zfill"""
METHODS: tuple[tuple[type | tuple[type, ...], frozenset[str]], ...] = (
    (str, frozenset(STRING_METHODS.split())),
    (dict, frozenset({"copy", "get", "items", "keys", "values"})),
    (filters._GroupTuple, frozenset({"grouper", "list"})),
    ((list, tuple), frozenset({"copy", "count", "index"})),
    (Cycler, frozenset({"current", "next", "reset"})),
    ((int, float, type, Joiner, GeneratorType), frozenset()),
)
# str methods whose time is the product of both lengths
QUADRATIC = {"lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"}


class FlatNamespace(Namespace):
    """A namespace that prints without its contents, which may hold each other many times over."""

    def __repr__(self) -> str:
        return "<Namespace>"


class Sandbox(ImmutableSandboxedEnvironment):
    """Compile and render only with METER set; errors are whatever Python or jinja2 raise, or InvalidTemplate."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
        kept: dict[str, Callable[..., Any]] = {
            name: function for name, function in self.filters.items() if name not in LEFT_OUT
        }
        kept |= {"join": _join, "sum": _sum, "tojson": _tojson}
        self.filters = {name: _metered(name, function) for name, function in kept.items()} | OWN_FILTERS
        tests: dict[str, Any] = dict(self.tests)
        self.tests = {name: _metered("", test) for name, test in tests.items()}
        del self.globals["lipsum"]
        self.globals |= {"namespace": FlatNamespace, "raise_exception": _raise_exception}
        self.globals["strftime_now"] = lambda layout: _strftime(now(), layout)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        return Metering().visit(template).set_environment(self)  # type: ignore[no-any-return]

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, names in METHODS:
            if isinstance(obj, kind):
                return attr in names
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _before_operator(METER.get(), operator, left, right)
        return METER.get().checked(super().call_binop(context, operator, left, right))

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        meter = METER.get()
        text = getattr(function, "__self__", None)
        if isinstance(text, str):
            args = _before_method(meter, text, function.__name__, args)
        elif isinstance(function, Macro) and (function.catch_varargs or function.catch_kwargs):
            meter.checked([args, kwargs])  # the macro sees them as one value
        with meter.deeper():
            return meter.checked(super().call(context, function, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if not isinstance(value, BuiltinMethodType) or not isinstance(value.__self__, str):
            return None
        text, formatter = value.__self__, MeteredFormatter(self)
        if value.__name__ == "format":
            return lambda *args, **kwargs: formatter.vformat(text, args, kwargs)
        if value.__name__ == "format_map":
            return lambda mapping: formatter.vformat(text, (), mapping)
        return None


class MeteredFormatter(SandboxedFormatter):
    """`str.format` with every field's width and size metered."""

    def format_field(self, value: Any, format_spec: str) -> str:
        METER.get().fits(_numbers_in(format_spec))
        text: str = super().format_field(value, format_spec)
        METER.get().charge(len(text))
        return text


class Metering(NodeTransformer):
    """Puts the meter into a parsed template: into loop turns, output, and whatever makes or walks containers."""

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [_through("~emit", child) for child in node.nodes]
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_turn(node), lineno=node.lineno))
        if node.test:
            node.test = nodes.And(_turn(node), node.test, lineno=node.lineno)
        return node

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.Node:
        self.generic_visit(node)
        node.filter = nodes.Filter(node.filter, "~check", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _through("~concat", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _through("~check", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _through("~check", node) if node.ctx == "load" else node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _through("~check", node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _through("~check", node)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        return _through("~check", node)


class Generation(Extension):
    """`{% generation %}`, with which templates mark what the assistant says: rendered as if it were not there."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _through(name: str, node: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _turn(node: nodes.For) -> nodes.Filter:
    return _through("~check", nodes.Const(True, lineno=node.lineno))


# What the transformer puts in. Filters that take the context are never evaluated while compiling.


@jinja2.pass_context
def _check(_: Context, value: Any) -> Any:
    return METER.get().checked(value)


@jinja2.pass_context
def _emit(_: Context, value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    METER.get().checked(text)
    return text


@jinja2.pass_context
def _concat(_: Context, values: Sequence[Any]) -> str:
    return METER.get().checked(_joined(METER.get(), "", values))


OWN_FILTERS = {"~check": _check, "~emit": _emit, "~concat": _concat}


# Filters and methods that can make much of little.


def _metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    before = BEFORE_FILTER.get(name)
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def metered(*args: Any, **kwargs: Any) -> Any:
        meter = METER.get()
        meter.tick()
        if before:
            before(meter, *args[skipped:], **kwargs)
        result = function(*args, **kwargs)
        return map(meter.checked, result) if isinstance(result, GeneratorType) else meter.checked(result)

    return metered


def _joined(meter: Meter, separator: str, values: Iterable[Any]) -> str:
    texts, chars = [], 0
    for value in values:
        texts.append(value if isinstance(value, str) else str(value))
        chars += len(texts[-1]) + len(separator)
        meter.fits(chars)
    return separator.join(texts)


@jinja2.pass_environment
def _join(environment: jinja2.Environment, value: Iterable[Any], d: str = "", attribute: Any = None) -> str:
    if attribute is not None:
        value = map(filters.make_attrgetter(environment, attribute), value)
    return _joined(METER.get(), str(d), value)


@jinja2.pass_context
def _sum(context: Context, iterable: Iterable[Any], attribute: Any = None, start: Any = 0) -> Any:
    sandbox = context.environment
    assert isinstance(sandbox, Sandbox)
    if attribute is not None:
        iterable = map(filters.make_attrgetter(sandbox, attribute), iterable)
    for value in iterable:
        start = sandbox.call_binop(context, "+", start, value)
    return start


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    spaces = indent if isinstance(indent, int) else len(indent or "")
    if spaces > 64 or sum(map(len, separators or ())) > 64:
        raise InvalidTemplate("template exceeds the limit of 64 characters for the indent and separators of tojson")
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return _joined(METER.get(), "", encoder.iterencode(value))


def _numbers_in(text: str) -> int:
    return sum(map(int, re.findall(r"\d+", text)))


def _before_operator(meter: Meter, operator: str, left: Any, right: Any) -> None:
    match operator:
        case "*":
            for sequence, count in ((left, right), (right, left)):
                if isinstance(sequence, str | list | tuple) and isinstance(count, int):
                    meter.fits(len(sequence) * count)
        case "+" if isinstance(left, str) and isinstance(right, str):
            meter.fits(len(left) + len(right))
        case "%" if isinstance(left, str):
            _before_percent(meter, left, right)
        case "**" if isinstance(left, int) and isinstance(right, int) and abs(left) > 1:
            meter.checked(2 ** min(right, 64))  # at least as large, and small enough to compute


def _before_percent(meter: Meter, text: str, values: Any, /) -> None:
    if "%" not in text:
        return
    if re.search(r"%[-#0 +\d.]*\*", text):
        raise InvalidTemplate("template formats with a computed width, which is not allowed")
    chars = len(str(values)) if not isinstance(values, str) else len(values)
    meter.fits(len(text) + _numbers_in(text) + text.count("%") * chars)


def _before_format(meter: Meter, text: Any, *args: Any, **kwargs: Any) -> None:
    _before_percent(meter, str(text), kwargs or args)


def _before_replace(meter: Meter, text: Any, old: str, new: str, *_: Any, **__: Any) -> None:
    text = str(text)
    meter.fits(len(text) + text.count(str(old)) * len(str(new)))


def _before_strip(meter: Meter, text: Any, chars: str | None = None) -> None:
    meter.spend(len(str(text)) * len(chars or "") // 64)


def _before_indent(meter: Meter, text: str, width: int | str = 4, *_: Any, **__: Any) -> None:
    spaces = len(width) if isinstance(width, str) else width
    meter.fits(len(text) + (text.count("\n") + 1) * spaces)


def _before_width(meter: Meter, _: Any, width: int = 0, *__: Any, **named: int) -> None:
    meter.fits(max([width, *(value for value in named.values() if isinstance(value, int))]))


def _before_round(meter: Meter, _: Any, precision: int = 0, *__: Any, **___: Any) -> None:
    if abs(precision) > 308:
        raise InvalidTemplate("template exceeds the limit of 308 decimals of round")


BEFORE_FILTER: Mapping[str, Callable[..., None]] = {
    "batch": _before_width,
    "center": _before_width,
    "format": _before_format,
    "indent": _before_indent,
    "replace": _before_replace,
    "round": _before_round,
    "slice": _before_width,
    "trim": _before_strip,
}


def _before_method(meter: Meter, text: str, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Meter a call of a `str` method before it is made; returns the arguments to call it with."""
    if name in {"center", "ljust", "rjust", "zfill"} and args and isinstance(args[0], int):
        meter.fits(args[0])
    elif name == "replace" and len(args) >= 2:
        _before_replace(meter, text, *args)
    elif name in QUADRATIC and args and isinstance(args[0], str):
        _before_strip(meter, text, args[0])
    elif name == "join" and len(args) == 1:
        items = list(args[0])
        meter.fits(sum(len(item) + len(text) for item in items if isinstance(item, str)))
        return (items,)
    return args


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(str(message))


def _strftime(moment: datetime, layout: str) -> str:
    METER.get().fits(256 * len(layout))  # what the platform may make of it at most
    return moment.strftime(layout)
