"""Golden transcripts: what a model wrote, read whole and cut everywhere, has to say the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from appliance.core import Think
from appliance.errors import OutputError
from appliance.prompt.parsers.base import Expected, OutputParser, Parsed, ToolCall
from appliance.prompt.parsers.families import FAMILIES

PROPERTIES = {
    "city": {"type": "string"},
    "days": {"type": "integer"},
    "share": {"type": "number"},
    "metric": {"type": "boolean"},
    "tags": {"type": "array"},
    "where": {"type": "object"},
    "note": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
}
TOOLS = tuple(
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": PROPERTIES}}}
    for name in ("weather", "get-time")
)

Make = Callable[[], OutputParser]


def read(parser: OutputParser, pieces: Iterable[str]) -> Parsed | str:
    """All that `parser` says of the pieces; the error's text where it raises."""
    found = Parsed()
    try:
        for piece in pieces:
            found += parser.feed(piece)
        return found + parser.finish()
    except OutputError as error:
        return str(error)


def read_everywhere_cut(make: Make, transcript: str) -> Parsed | str:
    """What a parser of `make` says of the transcript, asserted to be the same whole, cut in two at every
    character, character by character, and in threes.
    """
    whole = read(make(), [transcript])
    for at in range(1, len(transcript)):
        halves = [transcript[:at], transcript[at:]]
        assert read(make(), halves) == whole, f"cut at {at}: {halves}"
    for size in (1, 3):
        pieces = [transcript[at : at + size] for at in range(0, len(transcript), size)]
        assert read(make(), pieces) == whole, f"in pieces of {size}"
    return whole


def call(tool: str, **arguments: object) -> ToolCall:
    """The call of `tool` with arguments."""
    return ToolCall(tool, arguments)


def parser(family: str, think: Think | None = True, prompt: str = "", tools: Any = TOOLS) -> OutputParser:
    return FAMILIES[family](Expected(tools, think, prompt))


def said(family: str, transcript: str, think: Think | None = True, prompt: str = "", tools: Any = TOOLS) -> Any:
    return read_everywhere_cut(lambda: parser(family, think, prompt, tools), transcript)
