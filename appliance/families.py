"""The names of the families of models whose output has a parser of its own, and what such a model can do."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from appliance.core import Capability

_TOOLS: tuple[Capability, ...] = ("tools",)
_THINKING: tuple[Capability, ...] = ("thinking",)
_BOTH: tuple[Capability, ...] = ("tools", "thinking")

PARSERS: Mapping[str, tuple[Capability, ...]] = MappingProxyType(
    {
        "cogito": _BOTH,
        "cohere": _BOTH,
        "deepseek3": _BOTH,
        "functiongemma": _TOOLS,
        "gemma4": _BOTH,
        "gemma4-no-thinking": _TOOLS,
        "glimmer": _BOTH,
        "glm-4.7": _BOTH,
        "glm-ocr": _TOOLS,
        "harmony": _BOTH,
        "laguna": _BOTH,
        "lfm2": _TOOLS,
        "lfm2-thinking": _BOTH,
        "ministral": _TOOLS,
        "nemotron-3-nano": _BOTH,
        "nemotron-3.5-nano": _BOTH,
        "olmo3": _TOOLS,
        "olmo3-think": _THINKING,
        "ornith": _BOTH,
        "passthrough": (),
        "poolside-v1": _BOTH,
        "qwen3": _TOOLS,
        "qwen3-coder": _TOOLS,
        "qwen3-thinking": _BOTH,
        "qwen3-vl-instruct": _TOOLS,
        "qwen3-vl-thinking": _BOTH,
        "qwen3.5": _BOTH,
    }
)
"""By the names that PARSER takes in a Modelfile."""
