"""Runs parsed templates (after Go's text/template/exec)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
from appliance.prompt.gotemplate.values import Struct, show, truth, type_name

MISSING = object()  # no value came down the pipe


class _Jump(Exception):
    """`break` or `continue` on its way to the loop."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class Evaluator:
    """One execution: its output so far and the variables in sight."""

    def __init__(self, source: str, templates: Mapping[str, Block], context: Context) -> None:
        self._source = source
        self._templates = templates
        self._context = context
        self._meter = context.meter
        self._variables: list[list[Any]] = []  # name, value
        self._name = ""
        self._output: list[str] = []
        self._chars = 0

    def run(self, block: Block, data: Any) -> str:
        """The output of `block` with `data` as its dot; raises InvalidTemplate."""
        self._variables = [["$", data]]
        self._walk(block, data)
        return "".join(self._output)

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
            return enumerate(value)
        if isinstance(value, Mapping) and not isinstance(value, Struct):
            return ((key, value[key]) for key in sorted(value))
        if isinstance(value, int) and not isinstance(value, bool):
            if len(node.pipe.declared) > 1:
                self._fail(node.pipe, f"can't use {value} to iterate over more than one variable")
            return ((i, i) for i in range(value))
        self._fail(node.pipe, f"range can't iterate over {show(value)[:100]}")

    def _bind(self, pipe: Pipe, key: Any, element: Any) -> None:
        values = (element,) if len(pipe.declared) == 1 else (key, element)
        for i, (name, value) in enumerate(zip(pipe.declared, values, strict=False)):
            if pipe.assigns:
                self._assign(name, value)
            else:
                self._variables[i - len(pipe.declared)][1] = value

    def _invoke(self, node: Invocation, dot: Any) -> None:
        if node.name not in self._templates:
            self._fail(node, f"template {quote(node.name)} not defined")
        data = self._pipe(node.pipe, dot) if node.pipe else None
        outside = self._variables, self._name
        self._variables, self._name = [["$", data]], node.name
        with self._meter.deeper():
            self._walk(self._templates[node.name], data)
        self._variables, self._name = outside

    # values

    def _pipe(self, pipe: Pipe, dot: Any) -> Any:
        value: Any = MISSING
        for command in pipe.commands:
            value = self._command(command, dot, value)
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

    def _command(self, command: Command, dot: Any, final: Any) -> Any:
        first = command.arguments[0]
        if isinstance(first, Identifier):
            return self._function(first, command.arguments[1:], dot, final)
        if len(command.arguments) > 1 or final is not MISSING:
            self._refuse_arguments(first)
        if isinstance(first, Nil):
            self._fail(first, "nil is not a command")
        return self._value(first, dot)

    def _refuse_arguments(self, first: Operand) -> NoReturn:
        names = first.names if isinstance(first, Field | Variable | Chain) else ()
        if names:
            self._fail(first, f"{names[-1]} is not a method but has arguments")
        self._fail(first, f"can't give argument to non-function {first}")

    def _value(self, operand: Operand, dot: Any) -> Any:
        match operand:
            case Dot():
                return dot
            case Nil():
                return None
            case Literal(value=value):
                return value
            case Field(names=names):
                return self._fields(operand, dot, names)
            case Variable(name=name, names=names):
                found = next(value for known, value in reversed(self._variables) if known == name)
                return self._fields(operand, found, names)
            case Chain(operand=inner, names=names):
                return self._fields(operand, self._value(inner, dot), names)
            case Pipe():
                return self._pipe(operand, dot)
            case Identifier():
                return self._function(operand, (), dot, MISSING)

    def _fields(self, node: Operand, receiver: Any, names: tuple[str, ...]) -> Any:
        for i, name in enumerate(names):
            if receiver is None:
                if i:
                    self._fail(node, f"nil pointer evaluating interface {{}}.{name}")
                return None
            if not isinstance(receiver, Mapping) or (isinstance(receiver, Struct) and name not in receiver):
                self._fail(node, f"can't evaluate field {name} in type {type_name(receiver)}")
            receiver = receiver.get(name)
        return receiver

    def _function(self, node: Identifier, arguments: tuple[Operand, ...], dot: Any, final: Any) -> Any:
        self._meter.tick()
        if node.name in SHORT_CIRCUIT:
            return self._logic(node, arguments, dot, final)
        function = FUNCTIONS[node.name]
        values = [self._value(argument, dot) for argument in arguments]
        values += [] if final is MISSING else [final]
        if len(values) < function.least or (function.most is not None and len(values) > function.most):
            least = "at least " if function.most is None else ""
            self._fail(node, f"wrong number of args for {node.name}: want {least}{function.least} got {len(values)}")
        try:
            return self._meter.checked(function.call(self._context, *values))
        except FunctionError as error:
            self._fail(node, f"error calling {node.name}: {error}")

    def _logic(self, node: Identifier, arguments: tuple[Operand, ...], dot: Any, final: Any) -> Any:
        if not arguments and final is MISSING:
            self._fail(node, f"wrong number of args for {node.name}: want at least 1 got 0")
        value = None
        for argument in arguments:
            value = self._value(argument, dot)
            if truth(value) is (node.name == "or"):
                return value
        return value if final is MISSING else final

    def _fail(self, node: Operand | Invocation, message: str) -> NoReturn:
        before = self._source[: node.position]
        line_start = before.rfind("\n") + 1
        place = f":{before.count(chr(10)) + 1}:{len(before[line_start:].encode('utf-8', 'replace'))}"
        shown = str(node)
        shown = shown if len(shown) <= 20 else f"{shown[:20]}..."
        raise InvalidTemplate(f"template: {place}: executing {quote(self._name)} at <{shown}>: {message}")
