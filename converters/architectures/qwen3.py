"""The qwen3 architecture: Qwen 3, its dense text models.

Llama with an RMSNorm over each head's queries and keys before they turn, and rotary pairs across a head's halves. After
transformers' modeling_qwen3.py and llama.cpp's src/models/qwen3.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.store.gguf_header import TensorInfo
from converters.architectures import decoder
from converters.architectures.decoder import Stream
from converters.architectures.keys import Keys, check_tensors, in_layers
from converters.architectures.rope import Rope, read_rope, tables
from converters.graph import Graph
from converters.recipes.base import Recipe

NAME = "qwen3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(decoder.Config):
    """A qwen3 model."""

    rope: Rope


def read_config(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Config:
    """Read and check everything that the graph depends on; raises as `Architecture.read_config` says."""
    keys = Keys(NAME, metadata)
    dimensions = decoder.dimensions(keys, tensors)
    config = Config(**dimensions, rope=read_rope(keys, dimensions["head_dim"], interleaved=False))
    keys.refuse_others(decoder.NEUTRAL)

    layer = decoder.attention_shapes(config) | decoder.head_norm_shapes(config) | decoder.gated_shapes(config)
    check_tensors(NAME, tensors, decoder.outer_shapes(config) | in_layers(config.layers, layer), {})
    return config


def build(graph: Graph, weights: Recipe, config: Config) -> None:
    """Add the whole decoder to the graph."""
    step = decoder.begin(graph, config)
    rope = tables(weights, config.rope, config.context_length)
    embeddings = weights.embedding(step.ids, "token_embd")
    stream = Stream(graph, weights, config.epsilon, weights.enter(embeddings, config.hidden))
    for index in range(config.layers):
        layer = f"blk.{index}"
        qkv = decoder.packed_qkv(weights, stream.norm(f"{layer}.attn_norm.weight"), layer)
        heads = decoder.normed_heads(graph, weights, config, qkv, layer)
        x = decoder.attention(step, config, index, heads, rope)
        if index == config.layers - 1:
            x = stream.only_wanted(step, x)
        stream.add(weights.back(x, f"{layer}.attn_output"))
        x = stream.norm(f"{layer}.ffn_norm.weight")
        stream.add(decoder.swiglu(graph, weights, x, layer))
    decoder.head(step, weights, config, stream.norm("output_norm.weight"))
