"""What every parser of a model's output shares: from raw text to answer, thoughts and tool calls, as it arrives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from appliance.core import Think


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a declared tool."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a piece of output says; text belongs before the calls that come with it."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    def __add__(self, later: Parsed) -> Parsed:
        return Parsed(self.text + later.text, self.thinking + later.thinking, self.tool_calls + later.tool_calls)


class OutputParser(Protocol):
    """One answer's parser. Where the output is cut into pieces makes no difference to all that it returns.

    `markup` names the marks that it looks for: control tokens spelled in one of them reach it as text, others do not.
    """

    @property
    def markup(self) -> tuple[str, ...]: ...

    def feed(self, text: str) -> Parsed:
        """What has become final with `text`; what may be the start of markup is held back. Raises OutputError."""
        ...

    def finish(self) -> Parsed:
        """What was still held back, at the end. Raises OutputError for markup that a family wants whole."""
        ...

    def opening(self, output: str) -> str:
        """What an answer that is held to a format has to follow: what of the output so far comes before the answer."""
        ...


@dataclass(frozen=True, slots=True)
class Expected:
    """What an answer is parsed against.

    `tools` are the request's, as the client declared them; `think` None: the model knows no thinking; `prompt` is the
    rendered text that the answer continues.
    """

    tools: tuple[Mapping[str, Any], ...] = ()
    think: Think | None = None
    prompt: str = ""

    @property
    def functions(self) -> dict[str, Mapping[str, Any]]:
        """The parameters, a JSON schema, of every declared tool by its name."""
        declared = [tool.get("function") or {} for tool in self.tools]
        return {str(each.get("name", "")): each.get("parameters") or {} for each in declared}


def held_back(text: str, *marks: str) -> int:
    """How much of the end of `text` may be the beginning of one of `marks`."""
    longest = 0
    for mark in marks:
        for length in range(min(len(text), len(mark) - 1), longest, -1):
            if mark.startswith(text[len(text) - length :]):
                longest = length
                break
    return longest


MakeParser = Callable[[Expected], OutputParser]


class Passthrough:
    """Takes all output for the answer."""

    markup = ()

    def feed(self, text: str) -> Parsed:
        """See OutputParser."""
        return Parsed(text)

    def finish(self) -> Parsed:
        """See OutputParser."""
        return Parsed()

    def opening(self, output: str) -> str:
        """See OutputParser."""
        return ""


class Chain:
    """Lets a second parser read what the first takes for the answer."""

    def __init__(self, first: OutputParser, second: OutputParser) -> None:
        self.markup = first.markup + second.markup
        self._first = first
        self._second = second

    def feed(self, text: str) -> Parsed:
        """See OutputParser."""
        return self._through(self._first.feed(text))

    def finish(self) -> Parsed:
        """See OutputParser."""
        return self._through(self._first.finish()) + self._second.finish()

    def opening(self, output: str) -> str:
        """See OutputParser."""
        return self._first.opening(output)

    def _through(self, parsed: Parsed) -> Parsed:
        read = self._second.feed(parsed.text) if parsed.text else Parsed()
        return Parsed(read.text, parsed.thinking + read.thinking, parsed.tool_calls + read.tool_calls)
