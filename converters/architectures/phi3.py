"""The phi3 architecture: Phi-3, Phi-3.5 and Phi-4 text models.

Llama with queries, keys and values in one matrix, gate and up in another, and, in some, a window, a rotary embedding
of a part of each head, or LongRoPE. After transformers' modeling_phi3.py and llama.cpp's src/models/phi3.cpp.

LongRoPE has two tables of factors: short ones for texts within the context of the first training, and long ones for
longer texts, from the first token on. A text's keys are in the cache before its length is known, so a bundle has one of
them: the short ones, which are those that most texts want, and its context ends where they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from appliance.store.gguf_header import TensorInfo
from converters.architectures import decoder
from converters.architectures.decoder import Stream
from converters.architectures.keys import Keys, Shapes, check_tensors, in_layers
from converters.architectures.rope import SCALINGS, Rope, read_rope, tables
from converters.graph import Graph, silu_gate
from converters.recipes.base import Recipe

NAME = "phi3"
SHORT, LONG = "rope_factors_short.weight", "rope_factors_long.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(decoder.Config):
    """A phi3 model, every layer of which sees `window` tokens (0: all)."""

    rope: Rope
    window: int


def read_config(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Config:
    """Read and check everything that the graph depends on; raises as `Architecture.read_config` says."""
    keys = Keys(NAME, metadata)
    dimensions = decoder.dimensions(keys, tensors)
    rope = read_rope(keys, dimensions["head_dim"], interleaved=False, factors=SHORT, kinds=(*SCALINGS, "longrope"))
    longrope = SHORT in tensors or keys.any("rope.scaling.type") == "longrope"
    if longrope:
        rope = replace(rope, magnitude=keys.number("rope.scaling.attn_factor", 1.0))
        trained = keys.integer("rope.scaling.original_context_length")
        dimensions["context_length"] = min(trained, dimensions["context_length"])
    config = Config(**dimensions, rope=rope, window=keys.integer("attention.sliding_window", 0))
    keys.refuse_others(decoder.NEUTRAL)

    expected = decoder.outer_shapes(config) | in_layers(config.layers, layer_shapes(config))
    factors: Shapes = dict.fromkeys((SHORT, LONG), (rope.size // 2,))
    check_tensors(NAME, tensors, expected | factors if longrope else expected, {})
    return config


def layer_shapes(config: Config) -> Shapes:
    """The tensors of a layer."""
    return {
        "attn_norm.weight": (config.hidden,),
        "attn_qkv.weight": ((config.heads + 2 * config.kv_heads) * config.head_dim, config.hidden),
        "attn_output.weight": (config.hidden, config.heads * config.head_dim),
        "ffn_norm.weight": (config.hidden,),
        "ffn_up.weight": (2 * config.intermediate, config.hidden),
        "ffn_down.weight": (config.hidden, config.intermediate),
    }


def build(graph: Graph, weights: Recipe, config: Config) -> None:
    """Add the whole decoder to the graph."""
    step = decoder.begin(graph, config)
    rope = tables(weights, config.rope, config.context_length)
    embeddings = weights.embedding(step.ids, "token_embd")
    stream = Stream(graph, weights, config.epsilon, weights.enter(embeddings, config.hidden))
    for index in range(config.layers):
        layer = f"blk.{index}"
        norm = f"{layer}.attn_norm.weight"
        qkv = weights.linear(stream.norm(norm), f"{layer}.attn_qkv", after=norm)
        x = decoder.attention(step, config, index, [qkv], rope, window=config.window)
        if index == config.layers - 1:
            x = stream.only_wanted(step, x)
        stream.add(weights.back(x, f"{layer}.attn_output"))
        norm = f"{layer}.ffn_norm.weight"
        gate_up = weights.linear(stream.norm(norm), f"{layer}.ffn_up", after=norm)
        gate, up = graph.node("Split", gate_up, axis=-1, num_outputs=2, outputs=2)
        stream.add(weights.back(silu_gate(graph, gate, up), f"{layer}.ffn_down"))
    decoder.head(step, weights, config, stream.norm("output_norm.weight"))
