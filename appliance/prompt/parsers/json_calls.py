"""Calls as JSON: of Qwen and all that follow Hermes, of Cohere, of Mistral."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from appliance.prompt.parsers.base import Expected, OutputParser, ToolCall
from appliance.prompt.parsers.spans import Calls as CallMarkup
from appliance.prompt.parsers.spans import Functions, Spans, Tags, between
from appliance.prompt.parsers.values import malformed, object_end, read_json, read_object

THINK = Tags("<think>", "</think>")


def call_of(value: Any, text: str) -> ToolCall:
    """The call that an object of JSON stands for, under any of the names in use. Raises OutputError."""
    if not isinstance(value, Mapping):
        raise malformed("no JSON object", text)
    name = value.get("name") or value.get("tool_name")
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = read_object(arguments)
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        raise malformed("no name or no arguments", text)
    return ToolCall(name, arguments)


def decode(text: str, _: Functions) -> list[ToolCall]:
    """A call, or a list of calls."""
    value = read_json(text)
    return [call_of(each, text) for each in (value if isinstance(value, list) else [value])]


HERMES = between("<tool_call>", "</tool_call>", decode)


def qwen3(expected: Expected) -> OutputParser:
    """`<tool_call>{"name": …, "arguments": …}</tool_call>`."""
    return Spans(expected, calls=HERMES)


def qwen3_thinking(expected: Expected) -> OutputParser:
    """The same, behind thoughts."""
    return Spans(expected, thoughts=THINK, calls=HERMES)


def cohere(expected: Expected) -> OutputParser:
    """`<|START_ACTION|>[{"tool_name": …, "parameters": …}]<|END_ACTION|>`."""
    return Spans(
        expected,
        thoughts=Tags("<|START_THINKING|>", "<|END_THINKING|>", anywhere=True),
        calls=between("<|START_ACTION|>", "<|END_ACTION|>", decode),
        dropped=(
            "<|START_TEXT|>",
            "<|END_TEXT|>",
            "<|START_RESPONSE|>",
            "<|END_RESPONSE|>",
            "<|END_OF_TURN_TOKEN|>",
        ),
    )


def thoughts(expected: Expected) -> OutputParser:
    """Thoughts alone."""
    return Spans(expected, thoughts=THINK)


def _take_list(text: str, _: Functions) -> tuple[Sequence[ToolCall], int] | None:
    """A list of calls, which nothing closes but its own end."""
    begun = text.lstrip()
    if begun and begun[0] not in "[{":
        raise malformed("no list of calls", text)
    length = object_end(begun)
    return (decode(begun[:length], {}), len(text) - len(begun) + length) if length else None


def granite(expected: Expected) -> OutputParser:
    """`<|tool_call|>[{"name": …, "arguments": …}]`; Phi 4 closes it with a marker."""
    return Spans(expected, thoughts=THINK, calls=CallMarkup("<|tool_call|>", _take_list), dropped=("<|/tool_call|>",))


ARGUMENTS = "[ARGS]"
CALL_ID = "[CALL_ID]"
_NAMED = re.compile(r"\s*(?P<name>[^\[\]{}\s]+)(?:\[CALL_ID\][^\[\]]*)?\[ARGS\]\s*")


def _take_mistral(text: str, _: Functions) -> tuple[Sequence[ToolCall], int] | None:
    """`NAME[ARGS]{…}`, or an older list of objects, which nothing closes but its own end."""
    if text.lstrip()[:1] in ("[", "{"):
        return _take_list(text, {})
    named = _NAMED.match(text)
    if not named:
        if ARGUMENTS in text or "{" in text:
            raise malformed(f"no name of a function before {ARGUMENTS}", text)
        return None
    body = text[named.end() :]
    if body and body[0] != "{":
        raise malformed("no JSON object", body)
    length = object_end(body)
    if not length:
        return None
    return [ToolCall(named["name"], read_object(body[:length]))], named.end() + length


def ministral(expected: Expected) -> OutputParser:
    """`[TOOL_CALLS]NAME[ARGS]{…}`, thoughts between `[THINK]` and `[/THINK]`."""
    return Spans(
        expected,
        thoughts=Tags("[THINK]", "[/THINK]", anywhere=True),
        calls=CallMarkup("[TOOL_CALLS]", _take_mistral, inner=(ARGUMENTS, CALL_ID)),
    )
