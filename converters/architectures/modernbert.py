"""The modern-bert architecture (ModernBERT, gte-modernbert, granite-embedding-r2), and rerankers of it.

After Warner et al., 2024, arXiv:2412.13663: norms before the residuals, no biases, GeGLU, rotated halves of heads.
Every so many layers, beginning with the first, one sees the whole text; the others see half a window to either side,
and turn by other angles. What the first layer reads is the norm of the embeddings, so it has no norm of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from appliance.errors import UnsupportedModel
from appliance.store.gguf_header import TensorInfo
from converters.architectures import encoder
from converters.architectures.encoder import (
    Inputs,
    add_inputs,
    add_norm,
    attention,
    gelu,
    norm,
    picked,
)
from converters.architectures.keys import Keys, Shapes, check_layers, check_tensors, in_layers
from converters.architectures.rope import Rope, read_rope, tables
from converters.graph import Graph
from converters.recipes.base import Recipe

NAME = "modern-bert"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(encoder.Config):
    """A modern-bert model: `window` is how far a local layer sees in all, `every` how often a layer sees everything."""

    rope: Rope
    local_rope: Rope
    window: int
    every: int


def read_config(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Config:
    """Read and check everything that the graph depends on.

    Raises NotGGUF for what is missing or has another shape, UnsupportedModel for what the graph cannot express.
    """
    keys = Keys(NAME, metadata)
    dimensions = encoder.dimensions(keys)
    if (pooling := keys.any("classifier.pooling")) is not None:
        if pooling not in ("cls", "mean"):
            raise UnsupportedModel(f"{NAME}.classifier.pooling = {str(pooling)[:40]}", ("cls", "mean"))
        dimensions["pooling"] = pooling
    rope = read_rope(keys, dimensions["head_dim"], interleaved=False)
    config = Config(
        **dimensions,
        rope=rope,
        local_rope=replace(rope, base=keys.number("rope.freq_base_swa", rope.base)),
        window=keys.integer("attention.sliding_window"),
        every=keys.integer("attention.sliding_window_pattern"),
    )
    keys.refuse_others(encoder.NEUTRAL)

    check_layers(config.layers, tensors)
    head, optional = encoder.head_shapes(config, tensors)
    expected = _outer_shapes(config) | in_layers(config.layers, _layer_shapes(config)) | head
    del expected["blk.0.attn_norm.weight"]
    check_tensors(NAME, tensors, expected, optional)
    return config


def _outer_shapes(config: Config) -> Shapes:
    norms = {f"{norm}.weight": (config.hidden,) for norm in ("token_embd_norm", "output_norm")}
    return {"token_embd.weight": (config.vocab_size, config.hidden), **norms}


def _layer_shapes(config: Config) -> Shapes:
    hidden, inner = config.hidden, config.intermediate
    return {
        "attn_norm.weight": (hidden,),
        "attn_qkv.weight": (3 * hidden, hidden),
        "attn_output.weight": (hidden, hidden),
        "ffn_norm.weight": (hidden,),
        "ffn_up.weight": (2 * inner, hidden),
        "ffn_down.weight": (hidden, inner),
    }


def build(graph: Graph, weights: Recipe, config: Config) -> None:
    """Add the whole encoder to the graph."""
    inputs = add_inputs(graph, config.ranks)
    whole = tables(weights, config.rope, config.context_length)
    local = tables(weights, config.local_rope, config.context_length, "_local")
    window = _window(graph, inputs, config.context_length, config.window // 2)
    stream = x = norm(graph, weights, config, "token_embd_norm", weights.embedding(inputs.ids, "token_embd"))
    for index in range(config.layers):
        layer, last = f"blk.{index}", index == config.layers - 1
        seen = (whole, None) if index % config.every == 0 else (local, window)
        mixed = attention(graph, inputs, config, weights.linear(x, f"{layer}.attn_qkv"), *seen)
        if last and config.pooling != "mean":
            mixed, stream = (picked(graph, inputs, value, config.pooling) for value in (mixed, stream))
        mixed = weights.linear(mixed, f"{layer}.attn_output")
        x, stream = add_norm(graph, weights, config, f"{layer}.ffn_norm", mixed, stream)
        inner, gate = graph.node("Split", weights.linear(x, f"{layer}.ffn_up"), axis=-1, num_outputs=2, outputs=2)
        (product,) = graph.node("Mul", gelu(graph, inner), gate)
        following = "output_norm" if last else f"blk.{index + 1}.attn_norm"
        product = weights.linear(product, f"{layer}.ffn_down")
        x, stream = add_norm(graph, weights, config, following, product, stream)
    encoder.finish(graph, weights, config, inputs, x)


def _window(graph: Graph, inputs: Inputs, longest: int, reach: int) -> ir.Value:
    """Which tokens [S,S] of at most `longest` see each other: those at most `reach` apart."""
    (length,) = graph.node("Shape", inputs.ids, start=1)
    first = graph.constant("first", np.array([0]))
    (places,) = graph.node("Slice", graph.constant("places", np.arange(longest)), first, length, first)
    (column,) = graph.node("Unsqueeze", places, graph.constant("last_axis", np.array([-1])))
    (apart,) = graph.node("Abs", graph.node("Sub", places, column)[0])
    return graph.node("LessOrEqual", apart, graph.constant("reach", np.array(reach)))[0]
