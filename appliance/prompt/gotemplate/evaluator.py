"""Runs parsed templates (after Go's text/template/exec)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from appliance.errors import InvalidTemplate
from appliance.prompt.gotemplate.functions import FUNCTIONS, SHORT_CIRCUIT, Context, FunctionError
from appliance.prompt.gotemplate.lexer import quote
from appliance.prompt.gotemplate.nodes import (
    Action,
    Block,
    Branch,
    Chain,
    Command,
    Dot,
    Field,
    Identifier,
    Invocation,
    Jump,
    Literal,
    Nil,
    Operand,
    Pipe,
    Text,
    Variable,
)
from appliance.prompt.gotemplate.values import Struct, encoded, readable, show, truth, type_name

MISSING = object()  # no value came down the pipe


class _Jump(Exception):
    """`break` or `continue` on its way to the loop."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Slot:
    """A place of any type in a list or map, and what it holds: Go tells an empty one from no value at all."""

    value: Any


class Evaluator:
    """One execution: its output so far and the variables in sight."""

    def __init__(self, source: str, templates: Mapping[str, Block], context: Context) -> None:
        self._source = source
        self._templates = templates
        self._context = context
        self._meter = context.meter
        self._variables: list[list[Any]] = []  # name, value
        self._name = ""
        self._at: Operand | Command | Invocation = Dot(0)  # what an error is blamed on
        self._output: list[str] = []
        self._chars = 0

    def run(self, block: Block, data: Any) -> str:
        """The output of `block` with `data` as its dot; raises InvalidTemplate."""
        self._variables = [["$", data]]
        self._walk(block, data)
        return readable("".join(self._output))

    # nodes

    def _walk(self, block: Block, dot: Any) -> None:
        for node in block:
            self._meter.tick()
            match node:
                case Text(text=text):
                    self._write(text)
                case Action(pipe=pipe):
                    value = self._pipe(pipe, dot)
                    if not pipe.declared:
                        self._write("<no value>" if value is None else show(value))
                case Branch(kind="range"):
                    self._range(node, dot)
                case Branch():
                    self._branch(node, dot)
                case Invocation():
                    self._invoke(node, dot)
                case Jump(kind=kind):
                    raise _Jump(kind)

    def _write(self, text: str) -> None:
        self._output.append(text)
        self._chars += len(text)
        self._meter.fits(self._chars)

    def _branch(self, node: Branch, dot: Any) -> None:
        mark = len(self._variables)
        value = self._pipe(node.pipe, dot)
        if truth(value):
            self._walk(node.body, value if node.kind == "with" else dot)
        else:
            self._walk(node.otherwise, dot)
        del self._variables[mark:]

    def _range(self, node: Branch, dot: Any) -> None:
        mark = len(self._variables)
        value = self._pipe(node.pipe, dot)
        inner = len(self._variables)
        turned = False
        for key, element in self._turns(node, value):
            turned = True
            self._meter.tick()
            self._bind(node.pipe, key, element)
            try:
                self._walk(node.body, element)
            except _Jump as jump:
                if jump.kind == "break":
                    break
            finally:
                del self._variables[inner:]
        if not turned:
            self._walk(node.otherwise, dot)
        del self._variables[mark:]

    def _turns(self, node: Branch, value: Any) -> Iterable[tuple[Any, Any]]:
        if value is None:
            return ()
        if isinstance(value, list):
            return ((i, _slot(element)) for i, element in enumerate(value))
        if isinstance(value, Mapping) and not isinstance(value, Struct):
            return ((key, _slot(value[key])) for key in sorted(value, key=encoded))
        if isinstance(value, int) and not isinstance(value, bool):
            if len(node.pipe.declared) > 1:
                self._fail(f"can't use {value} to iterate over more than one variable")
            return ((i, i) for i in range(value))
        self._fail(f"range can't iterate over {show(value)[:100]}")

    def _bind(self, pipe: Pipe, key: Any, element: Any) -> None:
        values = (element,) if len(pipe.declared) == 1 else (key, element)
        for i, (name, value) in enumerate(zip(pipe.declared, values, strict=False)):
            if pipe.assigns:
                self._assign(name, value)
            else:
                self._variables[i - len(pipe.declared)][1] = value

    def _invoke(self, node: Invocation, dot: Any) -> None:
        self._at = node
        if node.name not in self._templates:
            self._fail(f"template {quote(node.name)} not defined")
        data = self._pipe(node.pipe, dot) if node.pipe else None
        outside = self._variables, self._name
        self._variables, self._name = [["$", data]], node.name
        with self._meter.deeper():
            self._walk(self._templates[node.name], data)
        self._variables, self._name = outside

    # pipelines and commands

    def _pipe(self, pipe: Pipe, dot: Any) -> Any:
        self._at = pipe
        value: Any = MISSING
        for command in pipe.commands:
            value = _held(self._command(command, dot, value))
        for name in pipe.declared:
            if pipe.assigns:
                self._assign(name, value)
            else:
                self._variables.append([name, value])
        return value

    def _assign(self, name: str, value: Any) -> None:
        for variable in reversed(self._variables):
            if variable[0] == name:
                variable[1] = value
                return
        self._fail(f"undefined variable: {name}")

    def _command(self, command: Command, dot: Any, final: Any) -> Any:
        first, more = command.arguments[0], command.arguments[1:]
        has_arguments = bool(more) or final is not MISSING
        if isinstance(first, Identifier):
            return self._function(first, command, more, dot, final)
        if not isinstance(first, Pipe):
            self._at = first
        if has_arguments and not (isinstance(first, Field | Variable | Chain) and first.names):
            self._fail(f"can't give argument to non-function {first}")
        if isinstance(first, Nil):
            self._fail("nil is not a command")
        return self._value(first, dot, has_arguments)

    def _value(self, operand: Operand, dot: Any, has_arguments: bool = False) -> Any:
        """What an operand stands for, maybe in its Slot."""
        if isinstance(operand, Pipe):
            return self._pipe(operand, dot)
        self._at = operand
        match operand:
            case Dot():
                return dot
            case Nil():
                return None
            case Literal(value=value):
                return value
            case Field(names=names):
                return self._fields(dot, names, has_arguments)
            case Variable(name=name, names=names):
                return self._fields(self._variable(name), names, has_arguments)
            case Chain(operand=inner, names=names):
                receiver = self._value(inner, dot)
                return self._fields(receiver, names, has_arguments)
        return self._function(operand, operand, (), dot, MISSING)

    def _variable(self, name: str) -> Any:
        for known, value in reversed(self._variables):
            if known == name:
                return value
        self._fail(f"undefined variable: {name}")

    def _fields(self, receiver: Any, names: tuple[str, ...], has_arguments: bool) -> Any:
        for i, name in enumerate(names, start=1):
            receiver = self._field(receiver, name, has_arguments and i == len(names))
        return receiver

    def _field(self, receiver: Any, name: str, has_arguments: bool) -> Any:
        value = _held(receiver)
        if value is None:
            if isinstance(receiver, Slot):
                self._fail(f"nil pointer evaluating interface {{}}.{name}")
            return None
        if isinstance(value, Struct) and name in value:
            if has_arguments:
                self._fail(f"{name} has arguments but cannot be invoked as function")
            return value[name]
        if isinstance(value, Mapping) and not isinstance(value, Struct):
            if has_arguments:
                self._fail(f"{name} is not a method but has arguments")
            return _slot(value.get(name))
        kind = "interface {}" if isinstance(receiver, Slot) else type_name(value)
        self._fail(f"can't evaluate field {name} in type {kind}")

    # functions

    def _function(
        self, node: Identifier, call: Command | Identifier, arguments: tuple[Operand, ...], dot: Any, final: Any
    ) -> Any:
        self._meter.tick()
        self._at = node
        finals = () if final is MISSING else (final,)
        if node.name in SHORT_CIRCUIT:
            return self._logic(node, arguments, dot, finals)
        function, number = FUNCTIONS[node.name], len(arguments) + len(finals)
        if function.most is None and number < function.least:
            self._fail(f"wrong number of args for {node.name}: want at least {function.least} got {len(arguments)}")
        if function.most is not None and number != function.most:
            self._fail(f"wrong number of args for {node.name}: want {function.most} got {number}")
        values = [
            self._argument(argument, dot, object if i else function.first) for i, argument in enumerate(arguments)
        ]
        values += [self._fitting(value, object if values else function.first) for value in finals]
        try:
            return self._meter.checked(function.call(self._context, *values))
        except FunctionError as error:
            self._at = call
            self._fail(f"error calling {node.name}: {error}")

    def _logic(self, node: Identifier, arguments: tuple[Operand, ...], dot: Any, finals: tuple[Any, ...]) -> Any:
        if not arguments and not finals:
            self._fail(f"wrong number of args for {node.name}: want at least 1 got 0")
        value = None
        for argument in arguments:
            value = _held(self._value(argument, dot))
            if truth(value) is (node.name == "or"):
                return value
        return finals[0] if finals else value

    def _argument(self, operand: Operand, dot: Any, wanted: type) -> Any:
        """An operand's value for a parameter of a type: any, string, or a tool's property."""
        if wanted is object or not isinstance(operand, Nil | Literal):
            return self._fitting(self._value(operand, dot), wanted)
        self._at = operand
        if wanted is str and isinstance(operand, Literal):
            if not isinstance(operand.value, str):
                self._fail(f"expected string; found {operand}")
            return operand.value
        if isinstance(operand, Nil):
            self._fail(f"cannot assign nil to {TYPES[wanted]}")
        self._fail(f"can't handle {operand} for arg of type {TYPES[wanted]}")

    def _fitting(self, slot: Any, wanted: type) -> Any:
        value = _held(slot)
        if isinstance(value, wanted):
            return value
        if value is None and not isinstance(slot, Slot):
            self._fail(f"invalid value; expected {TYPES[wanted]}")
        found = "interface {}" if value is None else type_name(value)
        self._fail(f"wrong type for value; expected {TYPES[wanted]}; got {found}")

    def _fail(self, message: str) -> NoReturn:
        before = self._source[: self._at.position]
        line_start = before.rfind("\n") + 1
        place = f":{before.count(chr(10)) + 1}:{len(encoded(before[line_start:]))}"
        raise InvalidTemplate(f"template: {place}: executing {quote(self._name)} at <{self._at}>: {message}")


TYPES: Mapping[type, str] = {str: "string", Struct: "api.ToolProperty"}


def _slot(value: Any) -> Any:
    """An element of a list or map as it is read there; structs lie in places of their own type."""
    return value if isinstance(value, Struct) else Slot(value)


def _held(value: Any) -> Any:
    return value.value if isinstance(value, Slot) else value
