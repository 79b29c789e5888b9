"""Calls written like Python: of OLMo 3 and of Liquid's LFM2."""

from __future__ import annotations

from appliance.prompt.parsers.base import Expected, OutputParser, ToolCall
from appliance.prompt.parsers.json_calls import THINK
from appliance.prompt.parsers.json_calls import decode as decode_json
from appliance.prompt.parsers.literals import PYTHON, read_calls
from appliance.prompt.parsers.spans import Functions, Spans, between


def _decode(text: str, functions: Functions) -> list[ToolCall]:
    if text.lstrip().startswith(("{", "[{")):  # LFM2 when it is asked for JSON
        return decode_json(text, functions)
    return read_calls(text, PYTHON)


OLMO = between("<function_calls>", "</function_calls>", _decode)
LFM = between("<|tool_call_start|>", "<|tool_call_end|>", _decode)


def olmo3(expected: Expected) -> OutputParser:
    """A line for each call between `<function_calls>` and `</function_calls>`."""
    return Spans(expected, calls=OLMO)


def olmo3_think(expected: Expected) -> OutputParser:
    """The same, behind thoughts."""
    return Spans(expected, thoughts=THINK, calls=OLMO)


def lfm2(expected: Expected) -> OutputParser:
    """A list of calls between `<|tool_call_start|>` and `<|tool_call_end|>`."""
    return Spans(expected, calls=LFM)


def lfm2_thinking(expected: Expected) -> OutputParser:
    """The same, behind thoughts."""
    return Spans(expected, thoughts=THINK, calls=LFM)
