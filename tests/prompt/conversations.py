"""Conversations for templates, as clients send them."""

from __future__ import annotations

from typing import Any

from appliance.core import Message

Wire = dict[str, Any]

SYSTEM: Wire = {"role": "system", "content": "Be brief & <kind>."}
USER: Wire = {"role": "user", "content": "What's 2+2? 😀\n"}
ASSISTANT: Wire = {"role": "assistant", "content": "Four."}
THOUGHT: Wire = {"role": "assistant", "content": "Four.", "thinking": "Two and two …"}
AGAIN: Wire = {"role": "user", "content": "And 'twice' that?"}
CALLS: Wire = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "call_1", "function": {"name": "weather", "arguments": {"city": "Köln", "days": 2, "in <f>": 0.5}}},
        {"id": "call_2", "function": {"index": 1, "name": "now", "arguments": {}}},
    ],
}
RESULT: Wire = {"role": "tool", "content": '{"temp": 22}', "tool_name": "weather", "tool_call_id": "call_1"}
OTHER_RESULT: Wire = {"role": "tool", "content": "noon", "tool_name": "now"}
CONVERSATIONS: dict[str, list[Wire]] = {
    "one question": [USER],
    "with a system message": [SYSTEM, USER],
    "several turns": [SYSTEM, USER, ASSISTANT, AGAIN],
    "with thoughts": [USER, THOUGHT, AGAIN],
    "a begun answer": [USER, ASSISTANT, AGAIN, {"role": "assistant", "content": "Let me"}],
    "with tool calls": [SYSTEM, USER, CALLS, RESULT, OTHER_RESULT],
    "after tool calls": [USER, CALLS, RESULT, ASSISTANT, AGAIN],
}
TOOLS: list[Wire] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a <city> & now",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Where"},
                    "days": {"type": ["integer", "null"]},
                    "unit": {"type": "string", "enum": ["C", "F"]},
                    "at": {"anyOf": [{"type": "number"}, {"type": "array", "items": {"type": "string"}}]},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}},
    },
]
THINKING: dict[str, Any] = {"with thoughts": True, "several turns": False, "after tool calls": "high"}


def messages(name: str) -> list[Message]:
    """A conversation in core's nouns."""
    return [Message(**{**turn, "tool_calls": tuple(turn.get("tool_calls", ()))}) for turn in CONVERSATIONS[name]]


def tools(name: str) -> list[Wire]:
    """The tools of a conversation."""
    return TOOLS if "tool" in name else []
