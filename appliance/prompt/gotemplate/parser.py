"""Tokens to nodes. Error texts are those of Go's text/template/parse."""

from __future__ import annotations

from collections.abc import Collection
from typing import NoReturn

from appliance.errors import InvalidTemplate
from appliance.prompt.gotemplate.lexer import Kind, Lexer, Token, quote
from appliance.prompt.gotemplate.literals import BadLiteral, read_character, read_number, read_string
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
    Node,
    Operand,
    Pipe,
    Text,
    Variable,
)

OPERANDS = {
    Kind.BOOL,
    Kind.CHAR_CONSTANT,
    Kind.DOT,
    Kind.FIELD,
    Kind.IDENTIFIER,
    Kind.NUMBER,
    Kind.NIL,
    Kind.RAW_STRING,
    Kind.STRING,
    Kind.VARIABLE,
    Kind.LEFT_PAREN,
}


def parse(source: str, functions: Collection[str]) -> dict[str, Block]:
    """The templates in `source` by name; "" is the text itself. Raises InvalidTemplate with Go's text."""
    parser = Parser(source, functions)
    try:
        parser.parse()
    except RecursionError as error:
        raise InvalidTemplate("template: nested too deeply") from error
    return parser.templates


class Parser:
    """Recursive descent, one method a construct."""

    def __init__(self, source: str, functions: Collection[str]) -> None:
        self.templates: dict[str, Block] = {}
        self._tokens = list(Lexer(source))
        self._next = 0
        self._furthest = 0
        self._functions = functions
        self._variables = ["$"]
        self._action_line = 0
        self._ranges = 0

    def parse(self) -> None:
        """Fill `templates`."""
        nodes: list[Node] = []
        while self._peek().kind is not Kind.EOF:
            if self._at_define():
                self._definition()
                continue
            node = self._text_or_action()
            if isinstance(node, str):
                self._fail(f"unexpected {{{{{node}}}}}")
            nodes.append(node)
        self._add("", tuple(nodes))

    # tokens

    def _read(self) -> Token:
        token = self._tokens[min(self._next, len(self._tokens) - 1)]
        self._next += 1
        self._furthest = max(self._furthest, min(self._next, len(self._tokens)) - 1)
        return token

    def _peek(self) -> Token:
        token = self._read()
        self._next -= 1
        return token

    def _read_word(self) -> Token:
        while (token := self._read()).kind is Kind.SPACE:
            pass
        return token

    def _peek_word(self) -> Token:
        token = self._read_word()
        self._next -= 1
        return token

    def _expect(self, kinds: set[Kind], context: str) -> Token:
        token = self._read_word()
        if token.kind not in kinds:
            self._unexpected(token, context)
        return token

    def _unexpected(self, token: Token, context: str) -> NoReturn:
        if token.kind is not Kind.ERROR:
            self._fail(f"unexpected {token} in {context}")
        where = ""
        if self._action_line not in (0, token.line):
            where = " started at" if token.text.endswith(" action") else " in action started at"
            where += f" :{self._action_line}"
        self._fail(f"{token}{where}")

    def _fail(self, message: str) -> NoReturn:
        raise InvalidTemplate(f"template: :{self._tokens[self._furthest].line}: {message[:300]}")

    # templates and what they contain

    def _add(self, name: str, block: Block) -> None:
        if name not in self.templates or _is_empty(self.templates[name]):
            self.templates[name] = block
        elif not _is_empty(block):
            self._fail(f"template: multiple definition of template {quote(name)}")

    def _at_define(self) -> bool:
        start = self._next
        if self._read().kind is Kind.LEFT:
            token = self._read_word()
            if token.kind is Kind.KEYWORD and token.text == "define":
                return True
        self._next = start
        return False

    def _definition(self) -> None:
        name = self._template_name(self._read_word(), "define clause")
        self._expect({Kind.RIGHT}, "define clause")
        self._add(name, self._own_block("define clause"))

    def _own_block(self, context: str) -> Block:
        """A template's own body: no variable or loop of what surrounds it reaches in."""
        outside = self._variables, self._ranges
        self._variables, self._ranges = ["$"], 0
        block, end = self._list()
        if end != "end":
            self._fail(f"unexpected {{{{{end}}}}} in {context}")
        self._variables, self._ranges = outside
        return block

    def _list(self) -> tuple[Block, str]:
        """Nodes up to `{{end}}` or `{{else}}`, and which of them it was."""
        nodes: list[Node] = []
        while self._peek_word().kind is not Kind.EOF:
            node = self._text_or_action()
            if isinstance(node, str):
                return tuple(nodes), node
            nodes.append(node)
        self._fail("unexpected EOF")

    def _text_or_action(self) -> Node | str:
        token = self._read_word()
        if token.kind is Kind.TEXT:
            return Text(token.text)
        if token.kind is not Kind.LEFT:
            self._unexpected(token, "input")
        self._action_line = token.line
        node = self._action()
        self._action_line = 0
        return node

    def _action(self) -> Node | str:
        token = self._read_word()
        if token.kind is not Kind.KEYWORD or token.text == "define":
            self._next -= 1
            return Action(self._pipeline("command"))
        match token.text:
            case "if" | "range" | "with":
                return self._branch(token.text)
            case "template":
                return self._invocation()
            case "block":
                return self._block()
            case "break" | "continue":
                return self._jump(token)
            case "else":
                if self._peek_word().text not in ("if", "with"):
                    self._expect({Kind.RIGHT}, "else")
                return "else"
        self._expect({Kind.RIGHT}, "end")
        return "end"

    def _branch(self, kind: str) -> Branch:
        visible = len(self._variables)
        pipe = self._pipeline(kind)
        self._ranges += kind == "range"
        body, end = self._list()
        self._ranges -= kind == "range"
        otherwise: Block = ()
        if end == "else":
            following = self._peek()
            if kind in ("if", "with") and following.kind is Kind.KEYWORD and following.text == kind:
                self._read()
                otherwise = (self._branch(kind),)  # one {{end}} ends the whole chain
            else:
                otherwise, end = self._list()
                if end != "end":
                    self._fail(f"expected end; found {{{{{end}}}}}")
        del self._variables[visible:]
        return Branch(kind, pipe, body, otherwise)

    def _jump(self, token: Token) -> Jump:
        following = self._read_word()
        if following.kind is not Kind.RIGHT:
            self._unexpected(following, f"{{{{{token.text}}}}}")
        if not self._ranges:
            self._fail(f"{{{{{token.text}}}}} outside {{{{range}}}}")
        return Jump(token.text)

    def _invocation(self) -> Invocation:
        token = self._read_word()
        name = self._template_name(token, "template clause")
        if self._read_word().kind is Kind.RIGHT:
            return Invocation(token.position, name, None)
        self._next -= 1
        return Invocation(token.position, name, self._pipeline("template clause"))

    def _block(self) -> Invocation:
        token = self._read_word()
        name = self._template_name(token, "block clause")
        pipe = self._pipeline("block clause")
        self._add(name, self._own_block("block clause"))
        return Invocation(token.position, name, pipe)

    def _template_name(self, token: Token, context: str) -> str:
        if token.kind not in (Kind.STRING, Kind.RAW_STRING):
            self._unexpected(token, context)
        return str(self._literal(token).value)

    # pipelines

    def _pipeline(self, context: str) -> Pipe:
        position = self._peek_word().position
        declared, assigns = self._declarations(context)
        commands: list[Command] = []
        while True:
            token = self._read_word()
            if token.kind in (Kind.RIGHT, Kind.RIGHT_PAREN):
                break
            if token.kind not in OPERANDS:
                self._unexpected(token, context)
            self._next -= 1
            commands.append(self._command())
        if not commands:
            self._fail(f"missing value for {context}")
        for stage, command in enumerate(commands[1:], start=2):
            if isinstance(command.arguments[0], Dot | Nil | Literal):
                self._fail(f"non executable command in pipeline stage {stage}")
        if token.kind is Kind.RIGHT_PAREN:
            self._next -= 1
        return Pipe(position, tuple(declared), assigns, tuple(commands))

    def _declarations(self, context: str) -> tuple[list[str], bool]:
        declared: list[str] = []
        while self._peek_word().kind is Kind.VARIABLE:
            start = self._next
            variable = self._read_word()
            following = self._read_word()
            if following.kind in (Kind.ASSIGN, Kind.DECLARE):
                self._variables.append(variable.text)
                return [*declared, variable.text], following.kind is Kind.ASSIGN
            if following.kind is not Kind.CHAR or following.text != ",":
                self._next = start
                break
            self._variables.append(variable.text)
            declared.append(variable.text)
            if context != "range" or len(declared) > 1:
                self._fail(f"too many declarations in {context}")
            if self._peek_word().kind not in (Kind.VARIABLE, Kind.RIGHT, Kind.RIGHT_PAREN):
                self._fail("range can only initialize variables")
        return declared, False

    def _command(self) -> Command:
        position = self._peek_word().position
        arguments: list[Operand] = []
        while True:
            self._peek_word()
            operand = self._operand()
            if operand is not None:
                arguments.append(operand)
            token = self._read()
            if token.kind is Kind.SPACE:
                continue
            if token.kind in (Kind.RIGHT, Kind.RIGHT_PAREN):
                self._next -= 1
            elif token.kind is not Kind.PIPE:
                self._unexpected(token, "operand")
            break
        if not arguments:
            self._fail("empty command")
        return Command(position, tuple(arguments))

    def _operand(self) -> Operand | None:
        term = self._term()
        if term is None or self._peek().kind is not Kind.FIELD:
            return term
        names, position = [], self._peek().position
        while self._peek().kind is Kind.FIELD:
            names.append(self._read().text[1:])
        if isinstance(term, Field):
            return Field(position, (*term.names, *names))
        if isinstance(term, Variable):
            return Variable(position, term.name, (*term.names, *names))
        if isinstance(term, Dot | Nil | Literal):
            self._fail(f"unexpected . after term {quote(str(term))}")
        return Chain(position, term, tuple(names))

    def _term(self) -> Operand | None:
        token = self._read_word()
        match token.kind:
            case Kind.IDENTIFIER:
                if token.text not in self._functions:
                    self._fail(f"function {quote(token.text)} not defined")
                return Identifier(token.position, token.text)
            case Kind.DOT:
                return Dot(token.position)
            case Kind.NIL:
                return Nil(token.position)
            case Kind.VARIABLE:
                if token.text not in self._variables:
                    self._fail(f"undefined variable {quote(token.text)}")
                return Variable(token.position, token.text)
            case Kind.FIELD:
                return Field(token.position, (token.text[1:],))
            case Kind.LEFT_PAREN:
                pipe = self._pipeline("parenthesized pipeline")
                closing = self._read()
                if closing.kind is not Kind.RIGHT_PAREN:
                    self._fail(f"unclosed right paren: unexpected {closing}")
                return pipe
            case Kind.BOOL | Kind.NUMBER | Kind.CHAR_CONSTANT | Kind.STRING | Kind.RAW_STRING:
                return self._literal(token)
        self._next -= 1
        return None

    def _literal(self, token: Token) -> Literal:
        readers = {Kind.NUMBER: read_number, Kind.CHAR_CONSTANT: read_character, Kind.STRING: read_string}
        if token.kind is Kind.BOOL:
            return Literal(token.position, token.text == "true", token.text)
        if token.kind is Kind.RAW_STRING:
            return Literal(token.position, token.text[1:-1].replace("\r", ""), token.text)
        try:
            return Literal(token.position, readers[token.kind](token.text), token.text)
        except BadLiteral as error:
            self._fail(str(error))


def _is_empty(block: Block) -> bool:
    return all(isinstance(node, Text) and not node.text.strip() for node in block)
