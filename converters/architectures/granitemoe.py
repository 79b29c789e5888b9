"""The granitemoe architecture: Granite 3's mixtures of experts, some of which have an expert that all tokens use.

Granite whose MLPs are mixtures of experts. After transformers' modeling_granitemoe.py and modeling_granitemoeshared.py,
and llama.cpp's src/models/granite-moe.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from appliance.store.gguf_header import TensorInfo
from converters.architectures import decoder, granite
from converters.architectures.keys import Keys, Shapes, check_tensors, in_layers
from converters.architectures.mixture import NEUTRAL, Mixture, mixture_of_experts, mixture_shapes, read_mixture
from converters.graph import Graph, silu_gate
from converters.recipes.base import Recipe

NAME = "granitemoe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(granite.Config):
    """A granitemoe model; `shared` is the width of the expert that all tokens use, or 0."""

    mixture: Mixture
    shared: int


def read_config(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Config:
    """Read and check everything that the graph depends on; raises as `Architecture.read_config` says."""
    keys = Keys(NAME, metadata)
    fields = granite.granite_fields(keys, tensors)
    shared = keys.integer("expert_shared_feed_forward_length", 0)
    config = Config(**fields, mixture=read_mixture(keys, fields["intermediate"]), shared=shared)
    keys.refuse_others(NEUTRAL)

    layer = decoder.attention_shapes(config) | mixture_shapes(config.hidden, config.mixture) | shared_shapes(config)
    expected = decoder.outer_shapes(config) | in_layers(config.layers, layer)
    check_tensors(NAME, tensors, expected, {granite.FACTORS: (config.head_dim // 2,)})
    return config


def shared_shapes(config: Config) -> Shapes:
    """The tensors of a layer's shared expert."""
    if not config.shared:
        return {}
    read, written = (config.shared, config.hidden), (config.hidden, config.shared)
    return {"ffn_gate_shexp.weight": read, "ffn_up_shexp.weight": read, "ffn_down_shexp.weight": written}


def build(graph: Graph, weights: Recipe, config: Config) -> None:
    """Add the whole decoder to the graph."""
    step = decoder.begin(graph, config)
    rope, stream = granite.begin(graph, weights, config, step)
    for index in range(config.layers):
        layer = f"blk.{index}"
        x = stream.norm(f"{layer}.attn_norm.weight")
        x = decoder.attention(step, config, index, [decoder.packed_qkv(weights, x, layer)], rope)
        if index == config.layers - 1:
            x = stream.only_wanted(step, x)
        stream.add(weights.back(x, f"{layer}.attn_output"))
        x = stream.norm(f"{layer}.ffn_norm.weight")
        stream.add(mixture_of_experts(weights, x, layer, config.mixture))
        if config.shared:
            stream.add(shared_expert(graph, weights, x, layer))
    granite.finish(step, weights, config, stream.norm("output_norm.weight"))


def shared_expert(graph: Graph, weights: Recipe, x: ir.Value, layer: str) -> ir.Value:
    """What the expert that all tokens use makes of the stream behind the layer's norm, for the stream."""
    names = f"{layer}.ffn_gate_shexp", f"{layer}.ffn_up_shexp"
    gate, up = weights.gate_up(x, *names, after=f"{layer}.ffn_norm.weight")
    return weights.back(silu_gate(graph, gate, up), f"{layer}.ffn_down_shexp")
