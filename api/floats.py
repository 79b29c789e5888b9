"""Vectors as JSON with the digits of Go's encoding/json: the fewest that read back as the same value."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

PLAIN_FROM, PLAIN_BELOW = 1e-6, 1e21


def vector(values: npt.NDArray[np.floating[Any]]) -> msgspec.Raw:
    """`values` [D], float32 or float64 and finite, as an array of JSON."""
    return msgspec.Raw(f"[{','.join(map(number, values))}]")


def number(value: np.floating[Any]) -> str:
    """One of them: plain from 1e-6 to below 1e21, else with an exponent of as many digits as it needs."""
    text = str(value)  # the fewest digits, but with an exponent already below 1e-4 and from 1e16
    if "e" not in text and not text.endswith(".0"):
        return text
    if value == 0 or PLAIN_FROM <= abs(value) < PLAIN_BELOW:
        return np.format_float_positional(value, unique=True, trim="-")
    return np.format_float_scientific(value, unique=True, trim="-", exp_digits=1)
