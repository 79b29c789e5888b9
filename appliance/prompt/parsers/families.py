"""The parsers of families of models, and by what a chat template tells its family."""

from __future__ import annotations

from collections.abc import Mapping

from appliance.prompt.parsers import deepseek, gemma, json_calls, pythonic, xml_calls
from appliance.prompt.parsers.base import MakeParser, Passthrough
from appliance.prompt.parsers.glimmer import glimmer
from appliance.prompt.parsers.harmony import harmony

FAMILIES: Mapping[str, MakeParser] = {
    "cogito": deepseek.deepseek,
    "cohere": json_calls.cohere,
    "deepseek3": deepseek.deepseek,
    "functiongemma": gemma.functiongemma,
    "gemma4": gemma.gemma4,
    "gemma4-no-thinking": gemma.gemma4_no_thinking,
    "glimmer": glimmer,
    "glm-4.7": xml_calls.glm,
    "glm-ocr": xml_calls.glm_ocr,
    "harmony": harmony,
    "laguna": xml_calls.glm,
    "lfm2": pythonic.lfm2,
    "lfm2-thinking": pythonic.lfm2_thinking,
    "ministral": json_calls.ministral,
    "nemotron-3-nano": xml_calls.qwen3_5,
    "nemotron-3.5-nano": xml_calls.qwen3_5,
    "olmo3": pythonic.olmo3,
    "olmo3-think": pythonic.olmo3_think,
    "ornith": xml_calls.qwen3_5,
    "passthrough": lambda _: Passthrough(),
    "poolside-v1": xml_calls.glm,
    "qwen3": json_calls.qwen3,
    "qwen3-coder": xml_calls.qwen3_coder,
    "qwen3-thinking": json_calls.qwen3_thinking,
    "qwen3-vl-instruct": json_calls.qwen3,
    "qwen3-vl-thinking": json_calls.qwen3_thinking,
    "qwen3.5": xml_calls.qwen3_5,
    "granite": json_calls.granite,  # which PARSER does not know
}

_MARKUP = (  # what templates of one family alone write, the more telling first; its name, and where it has thoughts
    (("<|start|>", "<|channel|>", "<|message|>"), "harmony", "harmony"),
    (("<atem:function_calls>",), "glimmer", "glimmer"),
    (("<|tool_call>", "<|channel>"), "gemma4", "gemma4"),
    (("<start_function_call>",), "functiongemma", "functiongemma"),
    (("<|START_ACTION|>",), "cohere", "cohere"),
    (("<｜tool▁calls▁begin｜>",), "deepseek3", "deepseek3"),
    (("<|tool_call_start|>",), "lfm2", "lfm2-thinking"),
    (("<function_calls>",), "olmo3", "olmo3-think"),
    (("[TOOL_CALLS]",), "ministral", "ministral"),
    (("<|tool_call|>",), "granite", "granite"),
    (("<tool_call>", "<function="), "qwen3-coder", "qwen3.5"),
    (("<tool_call>", "<arg_key>"), "glm-ocr", "glm-4.7"),
    (("<tool_call>",), "qwen3", "qwen3-thinking"),
)


def recognised(template: str) -> str:
    """The family whose markup a chat template writes, "" where none is known."""
    thinks = "</think>" in template
    for marks, family, thinking in _MARKUP:
        if all(mark in template for mark in marks):
            return thinking if thinks else family
    return ""
