"""The format of Muse Glimmer: messages to oneself, to the user, and to tools, whose calls are XML."""

from __future__ import annotations

import re
from typing import Any

from appliance.prompt.parsers.base import Expected, OutputParser, ToolCall
from appliance.prompt.parsers.messages import Envelope, Format, Messages
from appliance.prompt.parsers.values import Unfinished, malformed
from appliance.prompt.parsers.xml_calls import argument

_INVOKE = re.compile(
    r'\s*<atem:function_calls>\s*<atem:invoke name="([^"]*)">\s*(.*?)\s*</atem:invoke>\s*</atem:function_calls>\s*',
    re.DOTALL,
)
_PARAMETER = re.compile(r'\s*<atem:parameter name="([^"]*)">(.*?)</atem:parameter>', re.DOTALL)


def glimmer(expected: Expected) -> OutputParser:
    """`to=self` is thoughts, `to=NAME` a call of that tool, `to=user` the answer."""
    functions = expected.functions

    def read(header: str) -> Envelope:
        recipient = header.strip().removeprefix("to=").strip()
        name = known(recipient)
        return Envelope(function=name, thoughts=recipient == "self", final=not name and recipient != "self")

    def known(name: str) -> str:
        """The declared tool that a recipient names, its namespace left out where the model adds one."""
        _, _, inner = name.partition(".")
        return name if name in functions else inner if inner in functions else ""

    def decode(function: str, text: str) -> ToolCall:
        if "</atem:function_calls>" not in text:
            raise Unfinished(f"the model's call of {function} breaks off: {text[:200]!r}")
        whole = _INVOKE.fullmatch(text)
        if not whole:
            raise malformed("no <atem:invoke>", text)
        arguments: dict[str, Any] = {}
        rest = whole[2]
        while rest.strip():
            found = _PARAMETER.match(rest)
            if not found:
                raise malformed("no <atem:parameter>", rest)
            arguments[found[1]] = argument(functions, function, found[1], found[2])
            rest = rest[found.end() :]
        return ToolCall(function, arguments)

    form = Format(
        start="<|start|>",
        message="<|message|>",
        ends=("<|eom|>", "<|eot|>"),
        begins=("to=",),
        inner=(),
        final="<|start|>assistant to=user<|message|>",
        read=read,
        decode=decode,
    )
    return Messages(expected, form)
