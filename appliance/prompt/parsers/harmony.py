"""Harmony, the format of gpt-oss: channels for thoughts, for calls and for the answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from appliance.core import Message
from appliance.prompt.parsers.base import Expected, OutputParser, ToolCall
from appliance.prompt.parsers.messages import Envelope, Format, Messages
from appliance.prompt.parsers.values import Unfinished, object_end, read_object

Tools = Sequence[Mapping[str, Any]]

HARMONY = "harmony"  # the name of the parser
CHANNEL, CONSTRAIN = "<|channel|>", "<|constrain|>"
_RECIPIENT = re.compile(r"to=functions\.([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")


def harmony(expected: Expected) -> OutputParser:
    """`analysis` is thoughts, `commentary to=functions.NAME` a call, all else the answer."""
    names = {known: name for name, known in identifiers(expected.functions).items()}

    def decode(function: str, text: str) -> ToolCall:
        if text.strip() and not object_end(text.strip()) and text.lstrip().startswith("{"):
            raise Unfinished(f"the model's call of {function} breaks off: {text[:200]!r}")
        return ToolCall(names.get(function, function), read_object(text) if text.strip() else {})

    form = Format(
        start="<|start|>",
        message="<|message|>",
        ends=("<|end|>", "<|call|>", "<|return|>"),
        begins=(CHANNEL, "to=", CONSTRAIN),
        inner=(CHANNEL, CONSTRAIN),
        final=f"<|start|>assistant{CHANNEL}final<|message|>",
        read=read_header,
        decode=decode,
    )
    return Messages(expected, form)


def read_header(header: str) -> Envelope:
    """What `assistant to=functions.f<|channel|>commentary <|constrain|>json` means, the role left out."""
    recipient, channel = _RECIPIENT.search(header), _CHANNEL.search(header)
    name = channel[1] if channel else "final"
    if recipient:
        return Envelope(function=recipient[1])
    return Envelope(thoughts=name == "analysis", final=name == "final")


def identifiers(names: Iterable[str]) -> dict[str, str]:
    """The names of tools as TypeScript identifiers, in which the prompt declares them; no two alike."""
    found: dict[str, str] = {}
    for name in names:
        wanted = re.sub(r"[^A-Za-z0-9_$]", "_", name) or "_"
        wanted = f"_{wanted}" if wanted[0].isdigit() else wanted
        known, count = wanted, 1
        while known in found.values():
            count += 1
            known = f"{wanted}_{count}"
        found[name] = known
    return found


def with_identifiers(messages: Sequence[Message], tools: Tools) -> tuple[list[Message], tuple[Mapping[str, Any], ...]]:
    """A conversation and its tools under the names that the model is to know them by."""
    names = identifiers(str((tool.get("function") or {}).get("name", "")) for tool in tools)

    def renamed(part: Mapping[str, Any]) -> dict[str, Any]:
        function = part.get("function") or {}
        name = str(function.get("name", ""))
        return {**part, "function": {**function, "name": names.get(name, name)}}

    turns = [
        replace(
            message,
            tool_name=names.get(message.tool_name, message.tool_name),
            tool_calls=tuple(renamed(call) for call in message.tool_calls),
        )
        for message in messages
    ]
    return turns, tuple(renamed(tool) for tool in tools)
