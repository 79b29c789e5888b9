"""Families are told by the markers in a chat template."""

from __future__ import annotations

import pytest

from appliance.prompt.parsers.families import recognised

RECOGNISED = {
    "qwen3-thinking": "{{ '<tool_call>\n{\"name\": ' }} {{ '<think>\n\n</think>' }}",
    "qwen3": '<tool_call> {"name": }',
    "qwen3.5": "<tool_call>\n<function=example>\n<parameter=x> <think></think>",
    "qwen3-coder": "<tool_call>\n<function=example>\n<parameter=x>",
    "glm-4.7": "<tool_call><arg_key><arg_value> <think></think>",
    "harmony": "<|start|>assistant<|channel|>analysis<|message|>",
    "gemma4": "<|tool_call>call: <|channel>thought",
    "deepseek3": "<think></think><｜tool▁calls▁begin｜>",
    "glm-ocr": "<tool_call><arg_key><arg_value>",
    "glimmer": "<|start|> to=<|message|><atem:function_calls>",
    "functiongemma": "<start_function_call>call:<start_function_response>",
    "cohere": "<|START_THINKING|><|START_ACTION|>",
    "lfm2": "<|tool_call_start|>",
    "lfm2-thinking": "<|tool_call_start|> <think></think>",
    "olmo3": "<functions><function_calls>",
    "olmo3-think": "<functions><function_calls> <think></think>",
    "ministral": "[AVAILABLE_TOOLS][TOOL_CALLS]",
    "granite": "<|tool_call|>",
    "": "<|im_start|>{{ role }}<|im_end|>",
}


@pytest.mark.parametrize("family", sorted(RECOGNISED))
def test_recognised_from_the_chat_template(family: str) -> None:
    assert recognised(RECOGNISED[family]) == family
