"""The bert architecture: BERT, MiniLM, bge, e5, gte, XLM-RoBERTa and bge-m3, and cross-encoders of these.

Learned positions, norms behind the residuals, a gelu by the error function (Devlin et al., 2018, arXiv:1810.04805).
GGUF files of RoBERTa leave out the first rows of position_embd, which no token uses, so positions count from 0 here
too. Metadata and tensor names after llama.cpp's gguf-py/gguf/constants.py and src/llama-model.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from converters.architectures.encoder import (
    Inputs,
    Pooling,
    add_inputs,
    add_norm,
    attention,
    gelu,
    mean,
    picked,
)
from converters.graph import MICROSOFT, Graph
from converters.recipes import Recipe

NAME = "bert"


@dataclass(frozen=True, slots=True)
class Config:
    """The dimensions of a bert model, checked against its tensors."""

    layers: int
    context_length: int
    hidden: int
    intermediate: int
    heads: int
    epsilon: float
    vocab_size: int
    pooling: Pooling


def build(graph: Graph, weights: Recipe, config: Config) -> None:
    """Add the whole encoder to the graph."""
    inputs = add_inputs(graph)
    x = _embeddings(graph, weights, config, inputs)
    for index in range(config.layers):
        layer = f"blk.{index}"
        qkv = weights.linear(x, f"{layer}.attn_q", f"{layer}.attn_k", f"{layer}.attn_v")
        mixed = attention(graph, inputs, qkv, config.heads, (config.hidden // config.heads) ** -0.5)
        if index == config.layers - 1 and config.pooling != "mean":
            mixed, x = (picked(graph, inputs, value, config.pooling) for value in (mixed, x))
        mixed = weights.linear(mixed, f"{layer}.attn_output")
        x = add_norm(graph, weights, mixed, x, f"{layer}.attn_output_norm", config.epsilon)
        inner = gelu(graph, weights.linear(x, f"{layer}.ffn_up"))
        x = add_norm(
            graph, weights, weights.linear(inner, f"{layer}.ffn_down"), x, f"{layer}.layer_output_norm", config.epsilon
        )
    if config.pooling == "mean":
        x = mean(graph, inputs, x)
    else:
        (x,) = graph.node("Squeeze", x, graph.constant("middle_axis", np.array([1])))
    graph.output(x, "embeddings", ("B", config.hidden))


def _embeddings(graph: Graph, weights: Recipe, config: Config, inputs: Inputs) -> ir.Value:
    """Words, positions and the first token type, normalised: [B,S,H]."""
    positions = weights.source.values(weights.source.tensors["position_embd.weight"])
    types = weights.source.values(weights.source.tensors["token_types.weight"])
    table = weights.table("positions", (config.context_length, config.hidden), lambda a, b: positions[a:b])
    (length,) = graph.node("Shape", inputs.ids, start=1)
    first, axis = graph.constant("first", np.array([0])), graph.constant("first", np.array([0]))
    (rows,) = graph.node("Slice", table, first, length, axis)
    vectors = [weights.vector(f"token_embd_norm.{part}") for part in ("weight", "bias")]
    return graph.node(
        "SkipLayerNormalization",
        *(weights.embedding(inputs.ids, "token_embd"), rows, *vectors, graph.constant("token_type.0", types[0])),
        domain=MICROSOFT,
        epsilon=config.epsilon,
    )[0]
