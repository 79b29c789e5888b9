"""The nomic-bert architecture (nomic-embed-text): BERT with rotated halves of heads, SwiGLU and no biases.

After Nussbaum et al., 2024, arXiv:2402.01613. Its mixture-of-experts sister nomic-bert-moe is another architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.store.gguf_header import TensorInfo
from converters.architectures import bert, encoder
from converters.architectures.encoder import add_inputs, add_norm, attention, picked
from converters.architectures.keys import Keys, Shapes, check_layers, check_tensors, in_layers
from converters.architectures.rope import Rope, read_rope, tables
from converters.graph import Graph, silu_gate
from converters.recipes.base import Recipe

NAME = "nomic-bert"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(encoder.Config):
    """A nomic-bert model."""

    rope: Rope


def read_config(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Config:
    """Read and check everything that the graph depends on.

    Raises NotGGUF for what is missing or has another shape, UnsupportedModel for what the graph cannot express.
    """
    keys = Keys(NAME, metadata)
    dimensions = encoder.dimensions(keys)
    config = Config(**dimensions, rope=read_rope(keys, dimensions["head_dim"], interleaved=False))
    keys.refuse_others(encoder.NEUTRAL)

    check_layers(config.layers, tensors)
    head, optional = encoder.head_shapes(config, tensors)
    optional |= bert.types_shape(config, tensors)
    expected = bert.embedding_shapes(config) | in_layers(config.layers, _layer_shapes(config)) | head
    check_tensors(NAME, tensors, expected, optional)
    return config


def _layer_shapes(config: Config) -> Shapes:
    hidden, inner = config.hidden, config.intermediate
    shapes: Shapes = {
        "attn_qkv.weight": (3 * hidden, hidden),
        "attn_output.weight": (hidden, hidden),
        "ffn_gate.weight": (inner, hidden),
        "ffn_up.weight": (inner, hidden),
        "ffn_down.weight": (hidden, inner),
    }
    for norm in ("attn_output_norm", "layer_output_norm"):
        shapes |= {f"{norm}.weight": (hidden,), f"{norm}.bias": (hidden,)}
    return shapes


def build(graph: Graph, weights: Recipe, config: Config) -> None:
    """Add the whole encoder to the graph."""
    inputs = add_inputs(graph, config.ranks)
    rope = tables(weights, config.rope, config.context_length)
    x = bert.embeddings(graph, weights, config, inputs)
    for index in range(config.layers):
        layer = f"blk.{index}"
        mixed = attention(graph, inputs, config, weights.linear(x, f"{layer}.attn_qkv"), rope)
        if index == config.layers - 1 and config.pooling != "mean":
            mixed, x = (picked(graph, inputs, value, config.pooling) for value in (mixed, x))
        mixed = weights.linear(mixed, f"{layer}.attn_output")
        x, _ = add_norm(graph, weights, config, f"{layer}.attn_output_norm", mixed, x)
        gate, up = (weights.linear(x, f"{layer}.ffn_{name}") for name in ("gate", "up"))
        inner = weights.linear(silu_gate(graph, gate, up), f"{layer}.ffn_down")
        x, _ = add_norm(graph, weights, config, f"{layer}.layer_output_norm", inner, x)
    encoder.finish(graph, weights, config, inputs, x)
