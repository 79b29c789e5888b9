"""Calls with an element for each parameter: of Qwen3-Coder and Qwen3.5, of Nemotron 3, of GLM and Laguna."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from appliance.prompt.parsers.base import Expected, OutputParser, ToolCall
from appliance.prompt.parsers.json_calls import THINK, call_of
from appliance.prompt.parsers.spans import Functions, Spans, between
from appliance.prompt.parsers.values import Schema, malformed, read_json, typed

_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>(.*)", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>((?:(?!<parameter=).)*?)(</parameter>)", re.DOTALL)
_UNCLOSED = re.compile(r"\s*<parameter=([^>\n]+)>(.*?)()(?=<parameter=|\Z)", re.DOTALL)
_PAIR = re.compile(r"\s*<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)


def argument(functions: Functions, function: str, name: str, text: str) -> Any:
    """A parameter's value, of the type that the function declares for it."""
    properties: Schema = functions.get(function, {}).get("properties") or {}
    return typed(text, properties.get(name) or {})


def decode_functions(text: str, functions: Functions) -> list[ToolCall]:
    """`<function=NAME><parameter=KEY>VALUE</parameter></function>`; a newline beside a value is not part of it."""
    whole = _FUNCTION.fullmatch(text)
    if not whole:
        raise malformed("no <function=…>", text)
    name, body = whole[1].strip(), whole[2].rstrip()
    rest = body.removesuffix("</function>")
    ended = rest != body
    arguments: dict[str, Any] = {}
    while rest.strip():
        found = _PARAMETER.match(rest) or _UNCLOSED.match(rest)
        if not found or not (ended or found[3] or found.end() < len(rest)):  # else it breaks off there
            raise malformed("no <parameter=…>", rest)
        value = found[2].removeprefix("\n").removesuffix("\n")
        arguments[found[1].strip()] = argument(functions, name, found[1].strip(), value)
        rest = rest[found.end() :]
    return [ToolCall(name, arguments)]


def decode_pairs(text: str, functions: Functions) -> list[ToolCall]:
    """`NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>`, or JSON, which Laguna writes at times."""
    if text.lstrip().startswith("{"):
        return [call_of(read_json(text), text)]
    name, mark, _ = text.partition("<arg_key>")
    rest = text[len(name) :]
    if not mark and "{" in name:
        name, _, _ = name.partition("{")
        arguments = read_json(text[len(name) :])
        return [call_of({"name": name.strip(), "arguments": arguments}, text)]
    name = name.strip()
    found: dict[str, Any] = {}
    while rest.strip():
        pair = _PAIR.match(rest)
        if not pair:
            raise malformed("no <arg_key> with an <arg_value>", rest)
        found[pair[1].strip()] = argument(functions, name, pair[1].strip(), pair[2])
        rest = rest[pair.end() :]
    if not name:
        raise malformed("no name of a function", text)
    return [ToolCall(name, found)]


WRAPPED = between("<tool_call>", "</tool_call>", decode_functions, end_thoughts=True)


def take_functions(text: str, functions: Functions) -> tuple[Sequence[ToolCall], int] | None:
    """A function to its own end, where it comes first; else what is within the markers."""
    end, closed = text.find("</function>"), text.find(WRAPPED.closing)
    if text.startswith("<function=") and end >= 0 and (closed < 0 or end < closed):
        end += len("</function>")
        return decode_functions(text[:end], functions), end
    return WRAPPED.take(text, functions)


FUNCTIONS = replace(WRAPPED, take=take_functions, bare="<function=")
PAIRS = between("<tool_call>", "</tool_call>", decode_pairs, end_thoughts=True)


def qwen3_coder(expected: Expected) -> OutputParser:
    """Qwen3-Coder, which has no thoughts."""
    return Spans(expected, calls=FUNCTIONS)


def qwen3_5(expected: Expected) -> OutputParser:
    """Qwen3.5, Ornith and Nemotron 3 Nano."""
    return Spans(expected, thoughts=THINK, calls=FUNCTIONS)


def glm(expected: Expected) -> OutputParser:
    """GLM 4.5 to 4.7 and Laguna."""
    return Spans(expected, thoughts=THINK, calls=PAIRS)


def glm_ocr(expected: Expected) -> OutputParser:
    """GLM-OCR, which has no thoughts."""
    return Spans(expected, calls=PAIRS)
