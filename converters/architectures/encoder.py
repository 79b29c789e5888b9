"""What encoders share: inputs, attention that sees both ways, pooling, a reranker's head.

Graph, batch `B` texts, `S` tokens of the longest:

    input_ids        [B,S] int64     right-padded
    attention_mask   [B,S] int64     1 for a token, 0 for padding
    token_type_ids   [B,S] int64     rerankers only
    embeddings       [B,D] float32   pooled, not normalised; or, of a reranker,
    scores           [B,1] float32   the raw logit

Attention is ONNX's own operator, told how long each row is: unpadded rows then cost nothing extra. Measured with
ONNX Runtime 1.32 on two threads, [8,128] tokens, 12 heads of 32: 1.3 ms; com.microsoft's MultiHeadAttention with a
mask 2.0 ms, or without one, through its flash kernel, 1.5 ms. Padding costs: with a quarter of it, 2.4 ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import onnx_ir as ir

from appliance.errors import NotGGUF, UnsupportedModel
from appliance.store.gguf_header import TensorInfo
from converters.architectures.keys import Keys, Shapes
from converters.architectures.rope import Tables
from converters.graph import MICROSOFT, Graph, cast
from converters.recipes.base import Recipe

Pooling = Literal["mean", "cls", "last"]
POOLING: Mapping[int, Pooling] = {1: "mean", 2: "cls", 3: "last"}
RANK = 4  # a reranker: "cls", and a head
HEAD = ("cls.weight", "cls.bias", "cls.norm.weight", "cls.output.bias")  # what a reranker may have besides cls.output
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attention.causal": (False,),
    "attention.max_alibi_bias": (0.0,),
    "attention.clamp_kqv": (0.0,),
    "use_parallel_residual": (False,),
}
INT64, FLOAT = ir.DataType.INT64, ir.DataType.FLOAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The dimensions of an encoder. There is no KV cache."""

    kv_heads: ClassVar[int] = 0

    layers: int
    context_length: int
    hidden: int
    intermediate: int
    heads: int
    head_dim: int
    epsilon: float
    vocab_size: int
    pooling: Pooling
    ranks: bool


def dimensions(keys: Keys) -> dict[str, Any]:
    """The fields of `Config`, from the keys that all encoders have.

    Without a pooling_type, vectors are means, as sentence-transformers does it.
    """
    heads, hidden = keys.integer("attention.head_count"), keys.integer("embedding_length")
    if hidden % heads:
        raise NotGGUF(f"a damaged model: {heads} heads share {hidden} columns")
    if keys.integer("attention.head_count_kv", heads) != heads:
        raise UnsupportedModel(f"{keys.name}.attention.head_count_kv other than head_count", ("equal counts",))
    kind = keys.any("pooling_type")
    if kind is not None and kind not in (*POOLING, RANK):
        known = (*(f"{number} ({name})" for number, name in POOLING.items()), f"{RANK} (rank)")
        raise UnsupportedModel(f"{keys.name}.pooling_type = {str(kind)[:40]}", known)
    keys.ignore("classifier.output_labels")  # the tensor of the labels has a shape
    return {
        "layers": keys.integer("block_count"),
        "context_length": keys.integer("context_length"),
        "hidden": hidden,
        "intermediate": keys.integer("feed_forward_length"),
        "heads": heads,
        "head_dim": hidden // heads,
        "epsilon": keys.number("attention.layer_norm_epsilon"),
        "vocab_size": keys.vocabulary(),
        "pooling": "cls" if kind == RANK else POOLING.get(kind or 1),
        "ranks": kind == RANK,
    }


def head_shapes(config: Config, tensors: Mapping[str, TensorInfo]) -> tuple[Shapes, Shapes]:
    """The tensors of a reranker's head, expected and optional ones. Raises UnsupportedModel for several labels."""
    if not config.ranks:
        return {}, {}
    hidden = config.hidden
    labels = tensors.get("cls.output.weight")
    if labels and len(labels.shape) == 2 and labels.shape[0] != 1:
        raise UnsupportedModel(f"a classifier of {labels.shape[0]} labels", ("rerankers, which have 1",))
    shapes = ((hidden, hidden), (hidden,), (hidden,), (1,))
    return {"cls.output.weight": (1, hidden)}, dict(zip(HEAD, shapes, strict=True))


class Inputs(NamedTuple):
    """What layers need of a run: the ids and the mask [B,S], and how many tokens [B] each row has, int64."""

    ids: ir.Value
    mask: ir.Value
    lengths: ir.Value
    types: ir.Value | None


def add_inputs(graph: Graph, ranks: bool) -> Inputs:
    """The inputs of every encoder, and those of a reranker."""
    ids = graph.input("input_ids", INT64, ("B", "S"))
    mask = graph.input("attention_mask", INT64, ("B", "S"))
    types = graph.input("token_type_ids", INT64, ("B", "S")) if ranks else None
    (lengths,) = graph.node("ReduceSum", mask, graph.constant("last_axis", np.array([-1])), keepdims=0)
    return Inputs(ids, mask, lengths, types)


def attention(
    graph: Graph,
    inputs: Inputs,
    config: Config,
    qkv: ir.Value,
    rope: Tables | None = None,
    window: ir.Value | None = None,
) -> ir.Value:
    """Attention among the tokens of each row, or those that the mask `window` [S,S] lets see each other.

    qkv [B,S,3·H] are queries, keys and values side by side, not yet rotated.
    """
    q, k, v = graph.node("Split", qkv, axis=-1, num_outputs=3, outputs=3)
    if rope:
        start = graph.constant("first", np.array([0]))
        q, k = (graph.node("RotaryEmbedding", x, start, rope.cos, rope.sin, domain=MICROSOFT)[0] for x in (q, k))
    return graph.node(
        "Attention",
        *(q, k, v, window, None, None, inputs.lengths),
        q_num_heads=config.heads,
        kv_num_heads=config.heads,
        scale=config.head_dim**-0.5,
    )[0]


def add_norm(graph: Graph, weights: Recipe, config: Config, name: str, *parts: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(LayerNorm of the sum of `parts`, their sum), with the gain and, if it has one, the bias `name`.

    Sum, since ONNX Runtime makes one node of Add and LayerNormalization, its SkipLayerNormalization: for [1024,384]
    that takes 1.0 ms on two threads, these two nodes 0.3 ms.
    """
    (total,) = graph.node("Sum", *parts)
    return norm(graph, weights, config, name, total), total


def norm(graph: Graph, weights: Recipe, config: Config, name: str, x: ir.Value) -> ir.Value:
    """LayerNorm with the gain and, if it has one, the bias `name`."""
    vectors = [f"{name}.{part}" for part in ("weight", "bias") if f"{name}.{part}" in weights.source.tensors]
    return graph.node("LayerNormalization", x, *map(weights.vector, vectors), axis=-1, epsilon=config.epsilon)[0]


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


def finish(graph: Graph, weights: Recipe, config: Config, inputs: Inputs, x: ir.Value) -> None:
    """The graph's output, from the layers' x: [B,S,H] for "mean", else the picked tokens [B,1,H]."""
    x = pooled(graph, inputs, x, config.pooling)
    if config.ranks:
        graph.output(cast(graph, _score(graph, weights, config, x), FLOAT), "scores", ("B", 1))
    else:
        graph.output(cast(graph, x, FLOAT), "embeddings", ("B", config.hidden))


def pooled(graph: Graph, inputs: Inputs, x: ir.Value, pooling: Pooling) -> ir.Value:
    """The vector [B,H] of each row, from x as `finish` has it."""
    if pooling == "mean":
        x = _mean(graph, inputs, x)
    return graph.node("Squeeze", x, graph.constant("middle_axis", np.array([1])))[0]


def _mean(graph: Graph, inputs: Inputs, x: ir.Value) -> ir.Value:
    """The mean [B,1,H] of the tokens of each row of x [B,S,H], added up in float32."""
    (mask,) = graph.node("Cast", inputs.mask, to=FLOAT)
    count = graph.node("ReduceSum", mask, graph.constant("last_axis", np.array([-1])), keepdims=1)[0]
    (share,) = graph.node("Div", mask, count)
    (row,) = graph.node("Unsqueeze", share, graph.constant("middle_axis", np.array([1])))
    (mean,) = graph.node("MatMul", row, cast(graph, x, FLOAT))
    return cast(graph, mean, graph.target.dtype)


def _score(graph: Graph, weights: Recipe, config: Config, x: ir.Value) -> ir.Value:
    """The score [B,1] of a pooled row [B,H]: a dense layer with tanh, or with gelu and a norm (ModernBERT); a sum.

    Not quantised, whatever the recipe: the head decides between neighbours.
    """

    def product(x: ir.Value, name: str) -> ir.Value:
        parts = [f"{name}.{part}" for part in ("weight", "bias") if f"{name}.{part}" in weights.source.tensors]
        return graph.node("Gemm", x, *map(weights.vector, parts), transB=1)[0]

    if "cls.weight" in weights.source.tensors:
        x = product(x, "cls")
        if "cls.norm.weight" in weights.source.tensors:
            x = norm(graph, weights, config, "cls.norm", gelu(graph, x))
        else:
            (x,) = graph.node("Tanh", x)
    return product(x, "cls.output")
