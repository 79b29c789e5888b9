"""What a parsed template is made of. `str()` of a node is its source as Go's error texts show it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from appliance.prompt.gotemplate.lexer import quote


@dataclass(frozen=True, slots=True)
class Dot:
    """`.`"""

    position: int

    def __str__(self) -> str:
        return "."


@dataclass(frozen=True, slots=True)
class Nil:
    """`nil`"""

    position: int

    def __str__(self) -> str:
        return "nil"


@dataclass(frozen=True, slots=True)
class Literal:
    """A string, number, character or boolean, and how it was spelled."""

    position: int
    value: Any
    spelled: str

    def __str__(self) -> str:
        return self.spelled


@dataclass(frozen=True, slots=True)
class Identifier:
    """A function's name."""

    position: int
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Field:
    """`.A.B`"""

    position: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        return "".join(f".{name}" for name in self.names)


@dataclass(frozen=True, slots=True)
class Variable:
    """`$x.A.B`; the name has its dollar sign."""

    position: int
    name: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ".".join((self.name, *self.names))


@dataclass(frozen=True, slots=True)
class Chain:
    """`(pipeline).A.B`"""

    position: int
    operand: Operand
    names: tuple[str, ...]

    def __str__(self) -> str:
        inner = f"({self.operand})" if isinstance(self.operand, Pipe) else str(self.operand)
        return inner + "".join(f".{name}" for name in self.names)


@dataclass(frozen=True, slots=True)
class Command:
    """Operands in a row: a value alone, or a function and its arguments."""

    position: int
    arguments: tuple[Operand, ...]

    def __str__(self) -> str:
        return " ".join(f"({a})" if isinstance(a, Pipe) else str(a) for a in self.arguments)


@dataclass(frozen=True, slots=True)
class Pipe:
    """`$a, $b := command | command`; `assigns` tells `=` from `:=`."""

    position: int
    declared: tuple[str, ...]
    assigns: bool
    commands: tuple[Command, ...]

    def __str__(self) -> str:
        declared = f"{', '.join(self.declared)} {'=' if self.assigns else ':='} " if self.declared else ""
        return declared + " | ".join(map(str, self.commands))


Operand: TypeAlias = Dot | Nil | Literal | Identifier | Field | Variable | Chain | Pipe


@dataclass(frozen=True, slots=True)
class Text:
    """What stands outside the braces."""

    text: str


@dataclass(frozen=True, slots=True)
class Action:
    """`{{ pipeline }}`"""

    pipe: Pipe


@dataclass(frozen=True, slots=True)
class Branch:
    """`{{ if }}`, `{{ with }}` or `{{ range }}`, as `kind` says."""

    kind: str
    pipe: Pipe
    body: Block
    otherwise: Block = ()


@dataclass(frozen=True, slots=True)
class Invocation:
    """`{{ template "name" pipeline }}`"""

    position: int
    name: str
    pipe: Pipe | None

    def __str__(self) -> str:
        return f"{{{{template {quote(self.name)}{f' {self.pipe}' if self.pipe else ''}}}}}"


@dataclass(frozen=True, slots=True)
class Jump:
    """`{{ break }}` or `{{ continue }}`, as `kind` says."""

    kind: str


Node: TypeAlias = Text | Action | Branch | Invocation | Jump
Block: TypeAlias = tuple[Node, ...]


def names_in(block: Block) -> Iterator[str]:
    """The names of all fields that a block mentions."""
    for node in block:
        match node:
            case Action(pipe=pipe) | Invocation(pipe=Pipe() as pipe):
                yield from _names_in_pipe(pipe)
            case Branch(pipe=pipe, body=body, otherwise=otherwise):
                yield from _names_in_pipe(pipe)
                yield from names_in(body)
                yield from names_in(otherwise)


def _names_in_pipe(pipe: Pipe) -> Iterator[str]:
    for command in pipe.commands:
        for operand in command.arguments:
            while isinstance(operand, Chain):
                yield from operand.names
                operand = operand.operand
            if isinstance(operand, Field | Variable):
                yield from operand.names
            elif isinstance(operand, Pipe):
                yield from _names_in_pipe(operand)


class Cut:
    """Everything up to the first mention of a field in an action; conditions don't count (after Ollama)."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._done = False

    def block(self, block: Block) -> Block:
        """`block` without what follows the field."""
        kept: list[Node] = []
        for node in block:
            if self._done:
                break
            if isinstance(node, Branch):
                kept.append(replace(node, body=self.block(node.body), otherwise=self.block(node.otherwise)))
            elif isinstance(node, Action):
                pipe = self._pipe(node.pipe)
                kept += [Action(pipe)] if pipe else []
            else:
                kept.append(node)
        return tuple(kept)

    def _pipe(self, pipe: Pipe) -> Pipe | None:
        commands = []
        for command in pipe.commands:
            arguments = tuple(kept for operand in command.arguments if (kept := self._operand(operand)) is not None)
            if not arguments:
                return None
            commands.append(replace(command, arguments=arguments))
        return replace(pipe, commands=tuple(commands))

    def _operand(self, operand: Operand) -> Operand | None:
        if self._done:
            return None
        if isinstance(operand, Field) and self._name in operand.names:
            self._done = True
        return self._pipe(operand) if isinstance(operand, Pipe) else operand
