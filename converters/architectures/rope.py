"""Rotary position embeddings: the angles by which pairs of values turn, position by position.

Plain (Su et al., 2021, arXiv:2104.09864); positions divided by a factor; frequencies divided by factors that the file
holds as a tensor (Llama 3's rope_freqs, LongRoPE's short factors, Ding et al., 2024, arXiv:2402.13753); YaRN (Peng et
al., 2023, arXiv:2309.00071).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.errors import UnsupportedModel
from converters.architectures.keys import Keys
from converters.recipes.base import Recipe

Angles = NDArray[np.float64]
SCALINGS = ("none", "linear", "yarn")


@dataclass(frozen=True, slots=True)
class Yarn:
    """Fast frequencies stay, slow ones are divided by the scale, those between are mixed.

    Fast are those that turn more than `fast` times within the `trained` context, slow those below `slow`.
    """

    trained: int
    fast: float
    slow: float


@dataclass(frozen=True, slots=True)
class Rope:
    """How the first `size` values of each head turn.

    Pairs are neighbours if `interleaved`, else the two halves. `scale` divides positions, `factors` names a tensor
    that divides the frequencies, `magnitude` multiplies what has been turned.
    """

    size: int
    base: float
    interleaved: bool
    scale: float = 1.0
    factors: str | None = None
    magnitude: float = 1.0
    yarn: Yarn | None = None


@dataclass(frozen=True, slots=True)
class Tables:
    """cos and sin [context_length, size / 2] in a graph."""

    cos: ir.Value
    sin: ir.Value
    interleaved: bool


def read_rope(
    keys: Keys, head_dim: int, interleaved: bool, factors: str | None = None, kinds: tuple[str, ...] = SCALINGS
) -> Rope:
    """The rope that the file describes. What `kinds` has beyond SCALINGS is in the tensor `factors` alone."""
    size = keys.integer("rope.dimension_count", head_dim)
    if size % 16 or size > head_dim:
        raise UnsupportedModel(f"{keys.name}.rope.dimension_count = {size}", (f"multiples of 16 up to {head_dim}",))
    # "linear" is llama.cpp's default, and a factor of 0 means none; scale_linear is how old files call it.
    kind = keys.choice("rope.scaling.type", "linear", kinds)
    scale = keys.number("rope.scaling.factor", 0.0) or keys.number("rope.scale_linear", 0.0) or 1.0
    keys.ignore("rope.scale_linear", "rope.scaling.finetuned", "rope.scaling.original_context_length")
    yarn, magnitude = None, 1.0
    if kind == "yarn":
        trained = keys.integer("rope.scaling.original_context_length")
        fast = keys.number("rope.scaling.yarn_beta_fast", 32.0)
        yarn = Yarn(trained, fast, keys.number("rope.scaling.yarn_beta_slow", 1.0))
        magnitude = keys.number("rope.scaling.attn_factor", 1.0) * (1 + 0.1 * math.log(max(scale, 1.0)))
    return Rope(
        size=size,
        base=keys.number("rope.freq_base", 10000.0),
        interleaved=keys.flag("rope.interleaved", interleaved),
        scale=scale if kind in ("linear", "yarn") else 1.0,
        factors=factors,
        magnitude=magnitude,
        yarn=yarn,
    )


def tables(weights: Recipe, rope: Rope, context_length: int, name: str = "") -> Tables:
    """The rope's tables in the weights file; `name` tells several apart."""
    turns = frequencies(rope)
    tensor = weights.source.tensors.get(rope.factors) if rope.factors else None
    if tensor:
        turns = turns / weights.source.values(tensor)

    def table(kind: str, function: Callable[[Angles], Angles]) -> ir.Value:
        def rows(start: int, stop: int) -> NDArray[np.float32]:
            return (function(np.arange(start, stop)[:, None] * turns) * rope.magnitude).astype(np.float32)

        return weights.table(f"{kind}{name}", (context_length, rope.size // 2), rows)

    return Tables(table("cos", np.cos), table("sin", np.sin), rope.interleaved)


def frequencies(rope: Rope) -> Angles:
    """The angle [size / 2] of one step, for each pair; without the factors of a tensor."""
    half = rope.size // 2
    plain: Angles = rope.base ** (-np.arange(half, dtype=np.float64) / half)
    if rope.yarn is None:
        return plain / rope.scale
    trained = rope.yarn.trained

    def place(turns: float) -> float:
        """The index of the pair that turns so often within the trained context."""
        return half * math.log(trained / (turns * 2 * math.pi)) / math.log(rope.base)

    low, high = max(math.floor(place(rope.yarn.fast)), 0), min(math.ceil(place(rope.yarn.slow)), rope.size - 1)
    slow = np.clip((np.arange(half) - low) / max(high - low, 0.001), 0, 1)
    mixed: Angles = plain * (1 - slow) + plain / rope.scale * slow
    return mixed
