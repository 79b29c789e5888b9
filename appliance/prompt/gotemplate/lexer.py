"""Go's template text cut into tokens, as text/template/parse does it."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import NoReturn

from appliance.prompt.gotemplate.values import encoded


class Kind(Enum):
    """What a token is."""

    ERROR = auto()  # its text is the message
    EOF = auto()
    TEXT = auto()
    LEFT = auto()
    RIGHT = auto()
    SPACE = auto()
    KEYWORD = auto()
    IDENTIFIER = auto()
    FIELD = auto()
    VARIABLE = auto()
    DOT = auto()
    NIL = auto()
    BOOL = auto()
    NUMBER = auto()
    CHAR_CONSTANT = auto()
    STRING = auto()
    RAW_STRING = auto()
    DECLARE = auto()
    ASSIGN = auto()
    PIPE = auto()
    LEFT_PAREN = auto()
    RIGHT_PAREN = auto()
    CHAR = auto()  # any other printable character


KEYWORDS = {"block", "break", "continue", "define", "else", "end", "if", "range", "template", "with"}


@dataclass(frozen=True, slots=True)
class Token:
    """A token, where it starts in the source, and on which line (from 1)."""

    kind: Kind
    text: str
    position: int
    line: int

    def __str__(self) -> str:
        if self.kind is Kind.EOF:
            return "EOF"
        if self.kind is Kind.ERROR:
            return self.text
        if self.kind in (Kind.KEYWORD, Kind.DOT, Kind.NIL):
            return f"<{self.text}>"
        return quote(self.text[:10]) + ("..." if len(encoded(self.text)) > 10 else "")


NAMED_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
}


def quote(text: str, mark: str = '"', ascii_only: bool = False) -> str:
    """`text` between quotation marks, escaped as Go's %q does."""
    escapes = NAMED_ESCAPES | {mark: "\\" + mark}

    def escaped(character: str) -> str:
        code = ord(character)
        if character in escapes:
            return escapes[character]
        if character.isprintable() and (character.isascii() or not ascii_only):
            return character
        if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
            return f"\\x{code - 0xDC00:02x}"
        return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

    return mark + "".join(map(escaped, text)) + mark


SPACES = " \t\r\n"
COMMENT = re.compile(r"/\*(?s:.*?)\*/")
RIGHT = re.compile(r"(?:[ \t\r\n]-)?\}\}")
NUMBER = re.compile(
    r"[+-]?(?:0[xX][0-9a-fA-F_]*(?:\.[0-9a-fA-F_]*)?(?:[pP][+-]?[0-9_]*)?|0[bB][01_]*(?:\.[01_]*)?"
    r"|0[oO][0-7_]*(?:\.[0-7_]*)?|[0-9_]*(?:\.[0-9_]*)?(?:[eE][+-]?[0-9_]*)?)i?"
)
STRING = re.compile(r'"(?:\\[^\n]|[^"\\\n])*"')
CHAR_CONSTANT = re.compile(r"'(?:\\[^\n]|[^'\\\n])*'")
RAW_STRING = re.compile(r"`[^`]*`")
QUOTED = {
    '"': (Kind.STRING, STRING, "unterminated quoted string"),
    "'": (Kind.CHAR_CONSTANT, CHAR_CONSTANT, "unterminated character constant"),
    "`": (Kind.RAW_STRING, RAW_STRING, "unterminated raw quoted string"),
}
SINGLE = {"=": Kind.ASSIGN, "|": Kind.PIPE}


class _Problem(Exception):
    """What is wrong; becomes the last token."""


class Lexer:
    """Iterate it for the tokens; the last is EOF or ERROR."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._position = 0
        self._line = 1
        self._parens = 0

    def __iter__(self) -> Iterator[Token]:
        try:
            yield from self._text()
        except _Problem as problem:
            yield Token(Kind.ERROR, str(problem), self._position, self._line)

    def _token(self, kind: Kind, end: int, text: str | None = None) -> Token:
        spelled = self._source[self._position : end]
        token = Token(kind, spelled if text is None else text, self._position, self._line)
        self._skip(end)
        return token

    def _skip(self, end: int) -> None:
        self._line += self._source.count("\n", self._position, end)
        self._position = end

    def _text(self) -> Iterator[Token]:
        source, trim = self._source, False
        while (left := source.find("{{", self._position)) >= 0:
            trims = source[left + 2 : left + 3] == "-" and source[left + 3 : left + 4] in tuple(SPACES)
            yield from self._trimmed(left, trim, trims)
            inside = left + (4 if trims else 2)
            if source.startswith("/*", inside):
                trim = self._comment(inside)
            else:
                yield self._token(Kind.LEFT, inside, "{{")
                self._parens = 0
                trim = yield from self._action()
        yield from self._trimmed(len(source), trim, False)
        yield Token(Kind.EOF, "", self._position, self._line)

    def _trimmed(self, end: int, at_left: bool, at_right: bool) -> Iterator[Token]:
        text = self._source[self._position : end]
        begin = self._position + (len(text) - len(text.lstrip(SPACES)) if at_left else 0)
        self._skip(begin)
        text = self._source[begin:end]
        text = text.rstrip(SPACES) if at_right else text
        if text:
            yield self._token(Kind.TEXT, end, text)
        self._skip(end)

    def _comment(self, begin: int) -> bool:
        comment = COMMENT.match(self._source, begin)
        if not comment:
            raise _Problem("unclosed comment")
        right = RIGHT.match(self._source, comment.end())
        if not right:
            raise _Problem("comment ends before closing delimiter")
        self._skip(right.end())
        return len(right[0]) > 2

    def _action(self) -> Generator[Token, None, bool]:
        """The tokens up to and with the right delimiter; returns whether that trims the text behind it."""
        while True:
            if right := RIGHT.match(self._source, self._position):
                if self._parens:
                    raise _Problem("unclosed left paren")
                yield self._token(Kind.RIGHT, right.end(), "}}")
                return len(right[0]) > 2
            yield self._inside()

    def _inside(self) -> Token:
        source, begin = self._source, self._position
        character = source[begin : begin + 1]
        if not character:
            raise _Problem("unclosed action")
        if character in SPACES:
            return self._token(Kind.SPACE, self._end_of_space())
        if character in QUOTED:
            kind, pattern, problem = QUOTED[character]
            quoted = pattern.match(source, begin)
            if not quoted:
                raise _Problem(problem)
            return self._token(kind, quoted.end())
        if character == ":":
            if source[begin + 1 : begin + 2] != "=":
                raise _Problem("expected :=")
            return self._token(Kind.DECLARE, begin + 2)
        if character in SINGLE:
            return self._token(SINGLE[character], begin + 1)
        if character in "()":
            return self._paren(character)
        return self._word(character)

    def _word(self, character: str) -> Token:
        source, begin = self._source, self._position
        following = source[begin + 1 : begin + 2]
        if character in "+-0123456789" or (character == "." and (not following or following in "0123456789")):
            return self._number()
        if character in ".$" or _is_alphanumeric(character):
            end = begin + 1
            while _is_alphanumeric(source[end : end + 1]):
                end += 1
            self._expect_terminator(end)
            return self._token(_word_kind(source[begin:end]), end)
        if character.isascii() and character.isprintable():
            return self._token(Kind.CHAR, begin + 1)
        raise _Problem(f"unrecognized character in action: {_code_point(character)}")

    def _end_of_space(self) -> int:
        end = self._position + 1
        while self._source[end : end + 1] in tuple(SPACES):
            end += 1
        # the last space belongs to a trim marker
        return end - 1 if self._source.startswith("-}}", end) else end

    def _paren(self, character: str) -> Token:
        self._parens += 1 if character == "(" else -1
        if self._parens < 0:
            raise _Problem("unexpected right paren")
        return self._token(Kind.LEFT_PAREN if character == "(" else Kind.RIGHT_PAREN, self._position + 1)

    def _number(self) -> Token:
        end = self._end_of_number(self._position)
        if self._source[end : end + 1] in ("+", "-"):  # of a complex number's two parts, which end in an i
            end = self._end_of_number(end)
            if self._source[end - 1] != "i":
                self._bad_number(end)
        return self._token(Kind.NUMBER, end)

    def _end_of_number(self, begin: int) -> int:
        found = NUMBER.match(self._source, begin)
        end = found.end() if found else begin
        if _is_alphanumeric(self._source[end : end + 1]):
            self._bad_number(end + 1)
        return end

    def _bad_number(self, end: int) -> NoReturn:
        raise _Problem(f"bad number syntax: {quote(self._source[self._position : end])}")

    def _expect_terminator(self, end: int) -> None:
        after = self._source[end : end + 1]
        if after and after not in " \t\r\n.,|:)(" and not self._source.startswith("}}", end):
            raise _Problem(f"bad character {_code_point(after)}")


def _is_alphanumeric(character: str) -> bool:
    return character == "_" or character.isalpha() or character.isdecimal()


def _word_kind(word: str) -> Kind:
    if word[0] == "$":
        return Kind.VARIABLE
    if word[0] == ".":
        return Kind.FIELD if len(word) > 1 else Kind.DOT
    if word in KEYWORDS:
        return Kind.KEYWORD
    return {"true": Kind.BOOL, "false": Kind.BOOL, "nil": Kind.NIL}.get(word, Kind.IDENTIFIER)


def _code_point(character: str) -> str:
    shown = f" '{character}'" if character.isprintable() else ""
    return f"U+{ord(character):04X}{shown}"
