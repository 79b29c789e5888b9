"""Request options and model parameters: Ollama's names, checked and merged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from appliance.core import SamplingParams
from appliance.errors import InvalidOption, InvalidRequest
from appliance.store.parameters import PARAMETERS

MIN_CONTEXT_TOKENS = 4
DEFAULT_CONTEXT_TOKENS = 4096
PENALTY_LIMIT = 1000.0
_SAMPLING = {field.name for field in fields(SamplingParams)} & PARAMETERS.keys()


@dataclass(frozen=True, slots=True)
class Options:
    """The options in force for one request. `num_ctx` and `num_thread` None: nobody said."""

    sampling: SamplingParams
    num_ctx: int | None
    num_thread: int | None
    num_gpu: int | None


def merge(parameters: Mapping[str, Any], requested: Mapping[str, Any], *, logprobs: bool, top: int) -> Options:
    """Defaults, overlaid by the model's `parameters`, overlaid by what the client `requested`.

    Unknown names and null values are skipped, as Ollama does. Raises InvalidOption for a wrong type,
    InvalidRequest for a value out of range.
    """
    known = {
        name: checked(name, value)
        for source in (parameters, requested)
        for name, value in source.items()
        if name in PARAMETERS and value is not None
    }
    check_ranges(known)
    sampling = {name: value for name, value in known.items() if name in _SAMPLING}
    return Options(
        SamplingParams(**sampling, logprobs=logprobs, top_logprobs=top),
        num_ctx=known.get("num_ctx"),
        num_thread=known.get("num_thread") or None,
        num_gpu=known.get("num_gpu"),
    )


def checked(name: str, value: Any) -> Any:
    """`value` as the type that option `name` has; floats given for integers are cut toward zero."""
    kind = PARAMETERS[name]
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind == "integer" and number:
        return int(value)
    if kind == "float32" and number and abs(value) < 3.4e38:
        return float(value)
    if kind == "boolean" and isinstance(value, bool):
        return value
    if kind == "array" and isinstance(value, list | tuple):
        if all(isinstance(item, str) for item in value):
            return tuple(value)
        raise InvalidOption(f'option "{name}" must be of an array of strings')
    raise InvalidOption(f'option "{name}" must be of type {kind}')


def check_ranges(options: Mapping[str, Any]) -> None:
    """Raise InvalidRequest for a penalty that would turn logits into infinities."""
    repeat = options.get("repeat_penalty", 1.0)
    if not 0 < repeat <= PENALTY_LIMIT:
        raise InvalidRequest(f'option "repeat_penalty" is {repeat:g}; it must be above 0 and at most {PENALTY_LIMIT:g}')
    for name in ("presence_penalty", "frequency_penalty"):
        if abs(options.get(name, 0.0)) > PENALTY_LIMIT:
            raise InvalidRequest(f'option "{name}" is {options[name]:g}; it must be within ±{PENALTY_LIMIT:g}')


def context_tokens(wanted: int | None, default: int, trained: int) -> int:
    """The context of a request: what was wanted, else the default, within [4, what the model was trained for]."""
    return max(MIN_CONTEXT_TOKENS, min(default if wanted is None else wanted, trained))
