"""The bert architecture: BERT, MiniLM, bge, e5, gte, XLM-RoBERTa and bge-m3, and rerankers of these.

Learned positions, norms behind the residuals, a gelu by the error function (Devlin et al., 2018, arXiv:1810.04805).
RoBERTa's first rows of positions, which no token uses, are left out of GGUF files, so positions count from 0 here too.
Metadata and tensor names after llama.cpp's gguf-py/gguf/constants.py and src/llama-model.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from appliance.store.gguf_header import TensorInfo
from converters.architectures import encoder
from converters.architectures.encoder import Config, Inputs, add_inputs, add_norm, attention, gelu, picked
from converters.architectures.keys import Keys, Shapes, check_layers, check_tensors, in_layers
from converters.graph import Graph
from converters.recipes.base import Recipe

NAME = "bert"
BIASED = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down")


def read_config(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Config:
    """Read and check everything that the graph depends on.

    Raises NotGGUF for what is missing or has another shape, UnsupportedModel for what the graph cannot express.
    """
    keys = Keys(NAME, metadata)
    config = Config(**encoder.dimensions(keys))
    keys.refuse_others(encoder.NEUTRAL)

    check_layers(config.layers, tensors)
    head, optional = encoder.head_shapes(config, tensors)
    optional |= types_shape(config, tensors)
    shapes = embedding_shapes(config) | {"position_embd.weight": (config.context_length, config.hidden)}
    check_tensors(NAME, tensors, shapes | in_layers(config.layers, _layer_shapes(config)) | head, optional)
    return config


def embedding_shapes(config: Config) -> Shapes:
    """The words and the norm of what enters the layers."""
    norm = {f"token_embd_norm.{part}": (config.hidden,) for part in ("weight", "bias")}
    return {"token_embd.weight": (config.vocab_size, config.hidden), **norm}


def types_shape(config: Config, tensors: Mapping[str, TensorInfo]) -> Shapes:
    """The table of token types, which has as many rows as it likes; XLM-RoBERTa has one."""
    types = tensors.get("token_types.weight")
    return {"token_types.weight": (types.shape[0], config.hidden)} if types else {}


def _layer_shapes(config: Config) -> Shapes:
    hidden, inner = config.hidden, config.intermediate
    matrices = {f"attn_{name}": (hidden, hidden) for name in ("q", "k", "v", "output")}
    matrices |= {"ffn_up": (inner, hidden), "ffn_down": (hidden, inner)}
    shapes: Shapes = {f"{name}.weight": shape for name, shape in matrices.items()}
    shapes |= {f"{name}.bias": matrices[name][:1] for name in BIASED}
    for norm in ("attn_output_norm", "layer_output_norm"):
        shapes |= {f"{norm}.weight": (hidden,), f"{norm}.bias": (hidden,)}
    return shapes


def build(graph: Graph, weights: Recipe, config: Config) -> None:
    """Add the whole encoder to the graph."""
    inputs = add_inputs(graph, config.ranks)
    x = embeddings(graph, weights, config, inputs, _positions(graph, weights, config, inputs))
    for index in range(config.layers):
        layer = f"blk.{index}"
        qkv = weights.linear(x, f"{layer}.attn_q", f"{layer}.attn_k", f"{layer}.attn_v")
        mixed = attention(graph, inputs, config, qkv)
        if index == config.layers - 1 and config.pooling != "mean":
            mixed, x = (picked(graph, inputs, value, config.pooling) for value in (mixed, x))
        mixed = weights.linear(mixed, f"{layer}.attn_output")
        x, _ = add_norm(graph, weights, config, f"{layer}.attn_output_norm", mixed, x)
        inner = weights.linear(gelu(graph, weights.linear(x, f"{layer}.ffn_up")), f"{layer}.ffn_down")
        x, _ = add_norm(graph, weights, config, f"{layer}.layer_output_norm", inner, x)
    encoder.finish(graph, weights, config, inputs, x)


def embeddings(
    graph: Graph, weights: Recipe, config: Config, inputs: Inputs, positions: ir.Value | None = None
) -> ir.Value:
    """The norm [B,S,H] of words, `positions` [S,H] and token types, which are all 0 but in rerankers."""
    parts = [weights.embedding(inputs.ids, "token_embd")]
    if positions is not None:
        parts.append(positions)
    if types := weights.source.tensors.get("token_types.weight"):
        table = weights.source.values(types)
        if inputs.types is not None and len(table) > 1:
            parts += graph.node("Gather", weights.vector(types.name), inputs.types, axis=0)
        else:
            parts.append(graph.constant("token_types.0", table[0]))
    return add_norm(graph, weights, config, "token_embd_norm", *parts)[0]


def _positions(graph: Graph, weights: Recipe, config: Config, inputs: Inputs) -> ir.Value:
    """The first S rows of the table of positions: [S,H]."""
    tensor = weights.source.tensors["position_embd.weight"]
    shape = config.context_length, config.hidden
    table = weights.table("positions", shape, lambda start, stop: weights.source.values(tensor)[start:stop])
    (length,) = graph.node("Shape", inputs.ids, start=1)
    first = graph.constant("first", np.array([0]))
    return graph.node("Slice", table, first, length, first)[0]
