"""The gemma architecture: the first Gemma.

Llama with embeddings times √hidden, GeGLU, and rotary pairs across a head's halves. GGUF's norm gains have the 1 that
Gemma adds to them. After transformers' modeling_gemma.py and llama.cpp's src/models/gemma.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appliance.store.gguf_header import TensorInfo
from converters.architectures import decoder
from converters.architectures.decoder import Stream
from converters.architectures.keys import Keys, check_tensors, in_layers
from converters.architectures.llama import Config
from converters.architectures.rope import read_rope, tables
from converters.graph import Graph, scaled
from converters.recipes.base import Recipe

NAME = "gemma"


def read_config(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Config:
    """Read and check everything that the graph depends on; raises as `Architecture.read_config` says."""
    keys = Keys(NAME, metadata)
    dimensions = decoder.dimensions(keys, tensors)
    config = Config(**dimensions, rope=read_rope(keys, dimensions["head_dim"], interleaved=False))
    keys.refuse_others(decoder.NEUTRAL)

    layer = decoder.attention_shapes(config) | decoder.gated_shapes(config)
    check_tensors(NAME, tensors, decoder.outer_shapes(config) | in_layers(config.layers, layer), {})
    return config


def build(graph: Graph, weights: Recipe, config: Config) -> None:
    """Add the whole decoder to the graph."""
    step = decoder.begin(graph, config)
    rope = tables(weights, config.rope, config.context_length)
    embeddings = scaled(graph, weights.embedding(step.ids, "token_embd"), config.hidden**0.5, "embedding.scale")
    stream = Stream(graph, weights, config.epsilon, weights.enter(embeddings, config.hidden))
    for index in range(config.layers):
        layer = f"blk.{index}"
        x = stream.norm(f"{layer}.attn_norm.weight")
        x = decoder.attention(step, config, index, [decoder.packed_qkv(weights, x, layer)], rope)
        if index == config.layers - 1:
            x = stream.only_wanted(step, x)
        stream.add(weights.back(x, f"{layer}.attn_output"))
        x = stream.norm(f"{layer}.ffn_norm.weight")
        stream.add(decoder.geglu(graph, weights, x, layer))
    decoder.head(step, weights, config, stream.norm("output_norm.weight"))
