"""The smollm3 architecture: SmolLM3.

Llama, every fourth layer of which leaves queries and keys unturned (Yang et al., 2025, arXiv:2501.18795). No key says
which; the interval belongs to the architecture. After transformers' modeling_smollm3.py and llama.cpp's
src/models/smollm3.cpp.
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

NAME = "smollm3"
UNTURNED = 4  # the last of so many layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(decoder.Config):
    """A smollm3 model; `rope` is that of three layers of four."""

    rope: Rope


def read_config(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Config:
    """Read and check everything that the graph depends on; raises as `Architecture.read_config` says."""
    keys = Keys(NAME, metadata)
    dimensions = decoder.dimensions(keys, tensors)
    config = Config(**dimensions, rope=read_rope(keys, dimensions["head_dim"], interleaved=True))
    keys.refuse_others(decoder.NEUTRAL)

    layer = decoder.attention_shapes(config) | decoder.gated_shapes(config)
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
        x = stream.norm(f"{layer}.attn_norm.weight")
        turned = (index + 1) % UNTURNED != 0
        qkv = decoder.packed_qkv(weights, x, layer)
        x = decoder.attention(step, config, index, [qkv], rope if turned else None)
        if index == config.layers - 1:
            x = stream.only_wanted(step, x)
        stream.add(weights.back(x, f"{layer}.attn_output"))
        x = stream.norm(f"{layer}.ffn_norm.weight")
        stream.add(decoder.swiglu(graph, weights, x, layer))
    decoder.head(step, weights, config, stream.norm("output_norm.weight"))
