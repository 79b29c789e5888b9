"""What encoders share: their inputs, attention that sees both ways, pooling.

Graph, batch `B` texts, `S` tokens of the longest:

    input_ids        [B,S] int64     right-padded
    attention_mask   [B,S] int64     1 for a token, 0 for padding
    token_type_ids   [B,S] int64     rerankers only
    embeddings       [B,D] float32   pooled, not normalised; or, of a reranker,
    scores           [B,1] float32   the raw logit

Attention is ONNX's own operator, told how long each row is: unpadded rows then cost nothing extra. Measured with
ONNX Runtime 1.32 on two threads, [8,128] tokens, 12 heads of 32: 1.3 ms; com.microsoft's MultiHeadAttention with a
mask 2.0 ms, or without one, through its flash kernel, 1.5 ms.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import onnx_ir as ir

from converters.graph import MICROSOFT, Graph
from converters.recipes import Recipe

Pooling = Literal["mean", "cls", "last"]
INT64, FLOAT = ir.DataType.INT64, ir.DataType.FLOAT


class Inputs(NamedTuple):
    """What every layer may need: the ids, the mask [B,S], and how many tokens [B] each row has, int64."""

    ids: ir.Value
    mask: ir.Value
    lengths: ir.Value


def add_inputs(graph: Graph) -> Inputs:
    """The inputs of every encoder."""
    ids = graph.input("input_ids", INT64, ("B", "S"))
    mask = graph.input("attention_mask", INT64, ("B", "S"))
    (lengths,) = graph.node("ReduceSum", mask, graph.constant("last_axis", np.array([-1])), keepdims=0)
    return Inputs(ids, mask, lengths)


def attention(graph: Graph, inputs: Inputs, qkv: ir.Value, heads: int, scale: float) -> ir.Value:
    """Attention among all tokens of a row; qkv [B,S,3·H] are queries, keys and values, side by side."""
    parts = graph.node("Split", qkv, axis=-1, num_outputs=3, outputs=3)
    return graph.node(
        "Attention", *(*parts, None, None, None, inputs.lengths), q_num_heads=heads, kv_num_heads=heads, scale=scale
    )[0]


def add_norm(graph: Graph, weights: Recipe, x: ir.Value, residual: ir.Value, name: str, epsilon: float) -> ir.Value:
    """LayerNorm(x + residual), with the gain and bias `name`."""
    vectors = [weights.vector(f"{name}.{part}") for part in ("weight", "bias")]
    return graph.node("SkipLayerNormalization", x, residual, *vectors, domain=MICROSOFT, epsilon=epsilon)[0]


def gelu(graph: Graph, x: ir.Value) -> ir.Value:
    """The exact gelu, by the error function."""
    return graph.node("Gelu", x, domain=MICROSOFT)[0]


def picked(graph: Graph, inputs: Inputs, x: ir.Value, pooling: Pooling) -> ir.Value:
    """The one token [B,1,H] of each row of x [B,S,H] that "cls" or "last" pooling keeps."""
    if pooling == "cls":
        return graph.node("Gather", x, graph.constant("first", np.array([0])), axis=1)[0]
    (last,) = graph.node("Sub", inputs.lengths, graph.constant("one", np.array(1)))
    (rows,) = graph.node("Unsqueeze", last, graph.constant("tail_axes", np.array([1, 2])))
    return graph.node("GatherND", x, rows, batch_dims=1)[0]


def mean(graph: Graph, inputs: Inputs, x: ir.Value) -> ir.Value:
    """The mean [B,H] of the tokens of each row of x [B,S,H]."""
    last = graph.constant("last_axis", np.array([-1]))
    middle = graph.constant("middle_axis", np.array([1]))
    (mask,) = graph.node("Cast", inputs.mask, to=FLOAT)
    (share,) = graph.node("Div", mask, graph.node("ReduceSum", mask, last, keepdims=1)[0])
    (row,) = graph.node("Unsqueeze", share, middle)
    return graph.node("Squeeze", graph.node("MatMul", row, x)[0], middle)[0]
