"""Modelfiles: `INSTRUCTION value` lines, read and written."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from appliance.core import Message
from appliance.errors import InvalidModelfile
from appliance.store.parameters import DEPRECATED, read_parameter

INSTRUCTIONS = ("from", "license", "template", "system", "adapter", "draft", "renderer", "parser", "parameter",
                "message", "requires")  # fmt: skip
ROLES = ("system", "user", "assistant")

_UNKNOWN_INSTRUCTION = (
    "command must be one of " + ", ".join(f'"{name}"' for name in INSTRUCTIONS[:-1]) + ', or "requires"'
)
_NUMBER = r"(0|[1-9][0-9]*)"
_TAIL = r"(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?"
_VERSION = re.compile(rf"{_NUMBER}(\.{_NUMBER}(\.{_NUMBER}{_TAIL})?)?")


@dataclass(frozen=True, slots=True)
class Modelfile:
    """What a Modelfile says. `sources` are the FROM values: names, files or folders, as written.

    `parameters` are typed, `stop` a list; `warnings` are lines to show the user.
    """

    sources: tuple[str, ...]
    adapter: str = ""
    draft: str = ""
    template: str = ""
    system: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    licenses: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    warnings: tuple[str, ...] = ()


def parse_modelfile(source: bytes | str) -> Modelfile:
    """Read a Modelfile: text, or bytes in UTF-8 or, with a byte order mark, UTF-16.

    Raises InvalidModelfile, whose `line` is set where one is to blame, though Ollama's message may not name it.
    """
    text = _decode(source) if isinstance(source, bytes) else source.removeprefix("\ufeff")
    scanner = _Scanner("".join(char for char in text if char.isprintable() or char in "\r\n\t"))
    words: dict[str, str] = {}
    sources: list[str] = []
    licenses: list[str] = []
    messages: list[Message] = []
    parameters: dict[str, Any] = {}
    warnings: list[str] = []
    while instruction := scanner.instruction():
        line = scanner.line
        match instruction:
            case "from":
                sources.append(scanner.value())
            case "license":
                licenses.append(scanner.value())
            case "message":
                messages.append(Message(scanner.role(), scanner.value()))
            case "parameter":
                name, value = scanner.word(r"[A-Za-z0-9_]*"), scanner.value()
                with _blaming(line):
                    _set_parameter(name, value, parameters, warnings)
            case "requires":
                value = scanner.value()
                with _blaming(line):
                    words["requires"] = _version(value)
            case _:
                words[instruction] = scanner.value()
    if not any(sources):
        raise InvalidModelfile("no FROM line")
    return Modelfile(
        tuple(filter(None, sources)),
        parameters=parameters,
        licenses=tuple(licenses),
        messages=tuple(messages),
        warnings=tuple(warnings),
        **words,
    )


@contextmanager
def _blaming(line: int) -> Iterator[None]:
    try:
        yield
    except InvalidModelfile as error:
        error.line = line
        raise


def _decode(source: bytes) -> str:
    for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        if source.startswith(mark):
            return source.decode("utf-16", "replace")
    return source.decode("utf-8-sig", "replace")


def _set_parameter(name: str, text: str, parameters: dict[str, Any], warnings: list[str]) -> None:
    if name in DEPRECATED:
        warnings.append(f"warning: parameter {name} is deprecated")
        return
    value = read_parameter(name, text)
    parameters[name] = [*parameters.get(name, []), *value] if isinstance(value, list) else value


def _version(text: str) -> str:
    version = text.removeprefix("v")
    if not _VERSION.fullmatch(version):
        raise InvalidModelfile("requires must be a valid semver (e.g. 0.14.0)")
    return version


class _Scanner:
    """A cursor over a Modelfile's text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def skip(self, pattern: str) -> str:
        found = re.compile(pattern).match(self.text, self.at)
        assert found  # every pattern here may match nothing
        self.at = found.end()
        return found[0]

    @property
    def line(self) -> int:
        return len(re.findall(r"\r\n|\r|\n", self.text[: self.at])) + 1

    def error(self, message: str) -> InvalidModelfile:
        return InvalidModelfile(message, self.line)

    @property
    def ended(self) -> bool:
        return self.at == len(self.text)

    def instruction(self) -> str:
        """The next instruction in lower case, "" at the end; comments are skipped."""
        self.skip(r"(?:[ \t\r\n]|#[^\r\n]*)*")
        if self.ended:
            return ""
        name = self.skip("[A-Za-z]*").lower()
        if self.ended:
            raise InvalidModelfile("unexpected EOF")
        if name not in INSTRUCTIONS or self.text[self.at] not in " \t":
            raise self.error(_UNKNOWN_INSTRUCTION)
        return name

    def word(self, pattern: str) -> str:
        """The name of a parameter or a role, and the blank after it."""
        self.skip(r"[ \t]*")
        word = self.skip(pattern)
        if self.ended:
            raise InvalidModelfile("unexpected EOF")
        if self.text[self.at] not in " \t":
            raise InvalidModelfile(f"unexpected EOF: {word}")
        return word

    def role(self) -> str:
        role = self.word("[A-Za-z]*")
        if role not in ROLES:
            raise self.error('message role must be one of "system", "user", or "assistant"')
        return role

    def value(self) -> str:
        """The rest of the line, or a quoted text, which ends at the first line that closes it."""
        self.skip(r"[ \t]*")
        start, quote = self.at, ""
        for quote in ('"""', '"', ""):
            if self.text.startswith(quote, start):
                break
        while True:
            self.skip(r"[^\r\n]*")
            end = self.at
            while end > start and self.text[end - 1].isspace():
                end -= 1
            if end - start >= 2 * len(quote) and self.text.endswith(quote, start, end):
                return self.text[start + len(quote) : end - len(quote)]
            if self.ended:
                raise InvalidModelfile("unexpected EOF")
            self.at += 1


def format_modelfile(modelfile: Modelfile) -> str:
    """Write a Modelfile, in the order in which Ollama writes them. FROM is never quoted."""
    lines = [f"FROM {modelfile.sources[0]}"] if modelfile.sources else []
    lines += _words(("ADAPTER", modelfile.adapter), ("DRAFT", modelfile.draft))
    lines += [f"FROM {source}" for source in modelfile.sources[1:]]
    lines += _words(
        ("TEMPLATE", modelfile.template),
        ("SYSTEM", modelfile.system),
        ("RENDERER", modelfile.renderer),
        ("PARSER", modelfile.parser),
        ("REQUIRES", modelfile.requires),
    )
    for name, value in modelfile.parameters.items():
        values = value if isinstance(value, list | tuple) else [value]
        lines += [f"PARAMETER {name} {quote(parameter_text(item))}" for item in values]
    lines += [f"LICENSE {quote(text)}" for text in modelfile.licenses]
    lines += [f"MESSAGE {message.role} {quote(message.content)}" for message in modelfile.messages]
    return "".join(f"{line}\n" for line in lines)


def _words(*words: tuple[str, str]) -> list[str]:
    return [f"{name} {quote(text)}" for name, text in words if text]


def parameter_text(value: Any) -> str:
    """A parameter's value as a Modelfile has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def quote(text: str) -> str:
    """A value as a Modelfile writes it: quoted where it must be, in `\"\"\"` if it has quotes itself.

    Ollama's form is used wherever it reads back as the same text. A text that no form can carry, because
    a line of it ends in three quotes, is written in Ollama's form all the same.
    """
    single, triple = f'"{text}"', f'"""{text}"""'
    quoted = triple if '"' in text else single
    usual = text if "\n" not in text and text.strip(" ") == text else quoted
    forms = (usual, quoted, triple, single)
    return next((form for form in forms if _reads_back(form, text)), usual)


def _reads_back(form: str, text: str) -> bool:
    try:
        scanner = _Scanner(f"{form}\n")
        return scanner.value() == text and scanner.at == len(form)
    except InvalidModelfile:
        return False
