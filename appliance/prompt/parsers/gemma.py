"""`call:NAME{key:value}`: of FunctionGemma and of Gemma 4, whose strings stand between tokens of their own."""

from __future__ import annotations

from appliance.prompt.parsers.base import Expected, OutputParser, ToolCall
from appliance.prompt.parsers.literals import Style, read_calls
from appliance.prompt.parsers.spans import Calls, Functions, Spans, Tags, between

ESCAPE, QUOTE = "<escape>", '<|"|>'


def _calls(opening: str, closing: str, quote: str) -> Calls:
    style = Style(prefix="call:", opening="{", closing="}", assign=":", quotes=(quote,))

    def decode(text: str, _: Functions) -> list[ToolCall]:
        return read_calls(text, style)

    return between(opening, closing, decode, inner=(quote,))


FUNCTION_GEMMA = _calls("<start_function_call>", "<end_function_call>", ESCAPE)
GEMMA4 = _calls("<|tool_call>", "<tool_call|>", QUOTE)
_THOUGHTS = Tags("<|channel>", "<channel|>", anywhere=True, title="thought\n")


def functiongemma(expected: Expected) -> OutputParser:
    """FunctionGemma, which has no thoughts."""
    return Spans(expected, calls=FUNCTION_GEMMA)


def gemma4(expected: Expected) -> OutputParser:
    """Gemma 4: thoughts are a channel named so."""
    return Spans(expected, thoughts=_THOUGHTS, calls=GEMMA4)


def gemma4_no_thinking(expected: Expected) -> OutputParser:
    """Gemma 4 where it does not think."""
    return Spans(expected, calls=GEMMA4)
