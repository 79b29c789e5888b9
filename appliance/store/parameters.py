"""The options a model or a request may set, and their types."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from appliance.bundle import KV_TYPES, RECIPES
from appliance.config import AUTO
from appliance.errors import InvalidModelfile, InvalidOption

ParameterType = Literal["integer", "float32", "boolean", "array"]

PARAMETERS: dict[str, ParameterType] = {
    "num_predict": "integer",
    "num_keep": "integer",
    "seed": "integer",
    "temperature": "float32",
    "top_k": "integer",
    "top_p": "float32",
    "min_p": "float32",
    "typical_p": "float32",
    "repeat_last_n": "integer",
    "repeat_penalty": "float32",
    "presence_penalty": "float32",
    "frequency_penalty": "float32",
    "stop": "array",
    "num_ctx": "integer",
    "num_batch": "integer",
    "num_gpu": "integer",
    "main_gpu": "integer",
    "use_mmap": "boolean",
    "num_thread": "integer",
    "draft_num_predict": "integer",
}

MODEL_PARAMETERS = {"recipe": (AUTO, *RECIPES), "kv_cache_type": KV_TYPES}
"""Ours beyond Ollama's, with their values: how a model is converted. A request cannot set them."""
DEPRECATED = frozenset(
    ("penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock", "mirostat",
     "mirostat_tau", "mirostat_eta")
)  # fmt: skip

_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def check_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a create request, without nulls and deprecated ones; raises InvalidOption."""
    checked = {name: value for name, value in given.items() if value is not None and name not in DEPRECATED}
    for name, value in checked.items():
        if name in MODEL_PARAMETERS:
            check_choice(name, value)
            continue
        if name not in PARAMETERS:
            raise InvalidOption(f"unknown parameter '{name}'")
        _check_type(name, PARAMETERS[name], value)
    return checked


def check_choice(name: str, value: Any) -> None:
    """Raise InvalidOption unless `value` is one of those that the parameter `name` of MODEL_PARAMETERS may have."""
    if value not in MODEL_PARAMETERS[name]:
        choices = ", ".join(MODEL_PARAMETERS[name])
        raise InvalidOption(f'option "{name}" must be one of {choices}, not {str(value)[:40]!r}')


def _check_type(name: str, kind: ParameterType, value: Any) -> None:
    match kind:
        case "array":
            fits = isinstance(value, list | tuple)
            if fits and not all(isinstance(item, str) for item in value):
                raise InvalidOption(f'option "{name}" must be of an array of strings')
        case "boolean":
            fits = isinstance(value, bool)
        case _:
            fits = isinstance(value, int | float) and not isinstance(value, bool)
    if not fits:
        raise InvalidOption(f'option "{name}" must be of type {kind}')


def read_parameter(name: str, text: str) -> Any:
    """The value of a Modelfile's `PARAMETER name text`, a list of one for `stop`; raises InvalidModelfile."""
    if choices := MODEL_PARAMETERS.get(name):
        if text not in choices:
            raise InvalidModelfile(f"invalid {name} [{text}]; one of: {', '.join(choices)}")
        return text
    match PARAMETERS.get(name):
        case None:
            raise InvalidModelfile(f"unknown parameter '{name}'")
        case "integer":
            if not re.fullmatch(r"[+-]?[0-9]+", text) or not -(2**63) <= int(text[:20]) < 2**63 or len(text) > 20:
                raise InvalidModelfile(f"invalid int value [{text}]")
            return int(text)
        case "float32":
            if not _FLOAT.fullmatch(text) or abs(float(text)) > 3.4028235e38:
                raise InvalidModelfile(f"invalid float value [{text}]")
            return float(text)
        case "boolean":
            if text not in (*_TRUE, *_FALSE):
                raise InvalidModelfile(f"invalid bool value [{text}]")
            return text in _TRUE
        case "array":
            return [text]
