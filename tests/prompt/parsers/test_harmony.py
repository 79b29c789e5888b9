"""Harmony: channels, preambles, and tools under identifiers of their own."""

from __future__ import annotations

import pytest

from appliance.core import Message
from appliance.prompt.parsers.base import Parsed
from appliance.prompt.parsers.harmony import identifiers, with_identifiers
from tests.prompt.parsers.transcripts import TOOLS, call, said


@pytest.mark.spec(51)
def test_harmony() -> None:
    """Channels with and without their ends, preambles, tools under the identifiers that the prompt declares."""
    transcript = (
        "<|channel|>analysis<|message|>I need the time.<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>Let me look.\n<|end|>"
        '<|start|>assistant to=functions.get_time<|channel|>commentary <|constrain|>json<|message|>{"city": "Oslo"}'
        "<|call|>"
    )
    wanted = Parsed("Let me look.\n", "I need the time.", (call("get-time", city="Oslo"),))
    assert said("harmony", transcript, prompt="<|start|>assistant") == wanted
    assert said("harmony", transcript.removesuffix("<|call|>"), prompt="<|start|>assistant") == wanted
    unended = "<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>42"
    assert said("harmony", unended, prompt="<|start|>assistant") == Parsed("42", "Hm.")
    started = "<|start|>assistant<|channel|>final<|message|>"
    assert said("harmony", "42<|return|>", prompt=started) == Parsed("42")
    assert said("harmony", "Just text.", prompt="<|start|>assistant") == Parsed("Just text.")
    cut_short = '<|channel|>commentary to=functions.weather<|message|>{"city": "Os'
    assert said("harmony", cut_short) == Parsed('{"city": "Os')


def test_harmony_names_tools_by_identifiers() -> None:
    assert identifiers(["get-time", "get.time", "2x", "", "ok"]) == {
        "get-time": "get_time",
        "get.time": "get_time_2",
        "2x": "_2x",
        "": "_",
        "ok": "ok",
    }
    made = {"id": "1", "function": {"index": 0, "name": "get-time", "arguments": {}}}
    turns = [Message("assistant", tool_calls=(made,)), Message("tool", "12:00", tool_name="get-time")]
    (asked, answered), tools = with_identifiers(turns, TOOLS)
    assert asked.tool_calls[0]["function"]["name"] == answered.tool_name == "get_time"
    assert [tool["function"]["name"] for tool in tools] == ["weather", "get_time"]
    assert TOOLS[1]["function"]["name"] == "get-time"
