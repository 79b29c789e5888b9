"""Calls between DeepSeek's own tokens: of DeepSeek 3 and 3.1, and of Cogito."""

from __future__ import annotations

import re

from appliance.prompt.parsers.base import Expected, OutputParser, ToolCall
from appliance.prompt.parsers.json_calls import THINK
from appliance.prompt.parsers.spans import Functions, Spans, between
from appliance.prompt.parsers.values import malformed, read_object

BEGIN, END, SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
OUTPUTS = (
    "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
)
_FENCED = re.compile(r"\s*function\s*$")
_BLOCK = re.compile(r"(.*?)```json(.*)```", re.DOTALL)


def _decode(text: str, _: Functions) -> list[ToolCall]:
    pieces = text.split(BEGIN)
    if pieces[0].strip() or len(pieces) < 2:
        raise malformed(f"no {BEGIN}", text)
    calls = []
    for piece in pieces[1:]:
        body, end, rest = piece.rpartition(END)
        if not end or rest.strip():
            body = piece
        calls.append(_call(body))
    return calls


def _call(text: str) -> ToolCall:
    """`NAME<sep>{…}`, or `function<sep>NAME` with the object in a block of Markdown, as DeepSeek 3 and Cogito."""
    name, separator, body = text.partition(SEPARATOR)
    if not separator:
        raise malformed(f"no {SEPARATOR}", text)
    if _FENCED.match(name) and (block := _BLOCK.fullmatch(body.strip())):
        name, body = block[1], block[2]
    if not name.strip():
        raise malformed("no name of a function", text)
    return ToolCall(name.strip(), read_object(body))


CALLS = between("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", _decode, inner=(BEGIN, END, SEPARATOR))


def deepseek(expected: Expected) -> OutputParser:
    """Both ways of writing a call are read, whichever of the models it is."""
    return Spans(expected, thoughts=THINK, calls=CALLS, dropped=OUTPUTS)
