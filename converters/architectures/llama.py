"""The llama architecture: Llama 1–3, SmolLM, Mistral, and the many models of that shape.

Per layer: RMSNorm, attention with rotary embedding over pairs (GGUF keeps llama weights in that order),
RMSNorm, SwiGLU. Metadata and tensor names after llama.cpp's gguf-py/gguf/constants.py and src/llama-model.cpp.
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

NAME = "llama"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(decoder.Config):
    """A llama model, every layer of which sees `window` tokens (0: all), as the first Mistral does."""

    rope: Rope
    window: int = 0


def read_config(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Config:
    """Read and check everything that the graph depends on.

    Raises NotGGUF for what is missing or has another shape, UnsupportedModel for what the graph cannot express.
    """
    keys = Keys(NAME, metadata)
    dimensions = decoder.dimensions(keys, tensors)
    rope = read_rope(keys, dimensions["head_dim"], interleaved=True, factors="rope_freqs.weight")
    config = Config(**dimensions, rope=rope, window=keys.integer("attention.sliding_window", 0))
    keys.refuse_others(decoder.NEUTRAL)

    layer = decoder.attention_shapes(config) | decoder.gated_shapes(config)
    expected = decoder.outer_shapes(config) | in_layers(config.layers, layer)
    optional = in_layers(config.layers, decoder.biases(layer, decoder.ALL_BIASES))
    optional["rope_freqs.weight"] = (rope.size // 2,)
    check_tensors(NAME, tensors, expected, optional)
    return config


def build(graph: Graph, weights: Recipe, config: Config) -> None:
    """Add the whole decoder to the graph."""
    step = decoder.begin(graph, config)
    rope = tables(weights, config.rope, config.context_length)
    embeddings = weights.embedding(step.ids, "token_embd")
    stream = Stream(graph, weights, config.epsilon, weights.enter(embeddings, config.hidden))
    for index in range(config.layers):
        layer = f"blk.{index}"
        x = stream.norm(f"{layer}.attn_norm.weight")
        x = decoder.attention(step, config, index, [decoder.packed_qkv(weights, x, layer)], rope, window=config.window)
        if index == config.layers - 1:
            x = stream.only_wanted(step, x)
        stream.add(weights.back(x, f"{layer}.attn_output"))
        x = stream.norm(f"{layer}.ffn_norm.weight")
        stream.add(decoder.swiglu(graph, weights, x, layer))
    decoder.head(step, weights, config, stream.norm("output_norm.weight"))
