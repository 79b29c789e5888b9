"""What architectures with a mixture of experts share: its keys, its tensors, its part of a layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from appliance.errors import NotGGUF
from converters.architectures import decoder
from converters.architectures.keys import Keys, Shapes
from converters.experts import Experts
from converters.recipes.base import Recipe

SOFTMAX = 1  # of GGUF's gating functions
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    **decoder.NEUTRAL,
    "expert_gating_func": (SOFTMAX,),
    "expert_weights_scale": (0.0, 1.0),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_shared_count": (0,),
    "leading_dense_block_count": (0,),
    "interleave_moe_layer_step": (0, 1),
}


@dataclass(frozen=True, slots=True)
class Mixture:
    """`used` of `count` experts of a width for every token; `normalised` as `Experts` says."""

    count: int
    used: int
    width: int
    normalised: bool


def read_mixture(keys: Keys, width: int) -> Mixture:
    """The mixture that the file describes; `width` is for files that do not say that of an expert."""
    count, used = keys.integer("expert_count"), keys.integer("expert_used_count")
    if used > count:
        raise NotGGUF(f"a damaged model: {used} of {count} experts")
    width = keys.integer("expert_feed_forward_length", width)
    return Mixture(count, used, width, keys.flag("expert_weights_norm", True))


def mixture_shapes(hidden: int, mixture: Mixture) -> Shapes:
    """The tensors of a layer's router and experts, and the norm before them."""
    return {
        "ffn_norm.weight": (hidden,),
        "ffn_gate_inp.weight": (mixture.count, hidden),
        "ffn_gate_exps.weight": (mixture.count, mixture.width, hidden),
        "ffn_up_exps.weight": (mixture.count, mixture.width, hidden),
        "ffn_down_exps.weight": (mixture.count, hidden, mixture.width),
    }


def mixture_of_experts(weights: Recipe, x: ir.Value, layer: str, mixture: Mixture) -> ir.Value:
    """What the experts of a layer make of the stream behind its norm, for the stream."""
    scores = weights.router(x, f"{layer}.ffn_gate_inp")
    gate, up, down = (weights.source.tensors[f"{layer}.ffn_{kind}_exps.weight"] for kind in ("gate", "up", "down"))
    return weights.experts(x, scores, Experts(gate, up, down, mixture.used, mixture.normalised))
