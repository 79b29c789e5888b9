"""What decoders share, in small pieces that an architecture's `build` puts together:

    step = begin(graph, config)                          the inputs of a run
    stream = Stream(graph, weights, epsilon, x)          the residual stream: norm, add
    attention(…), normed_heads(…), swiglu(…), geglu(…)   the two halves of a layer
    head(…)                                              the logits of the rows that are wanted

A model whose metadata has a pooling_type embeds: it has the inputs and the output of an encoder, see encoder.py. Layers
are the same, over whole texts and without a cache, and `head` pools what is behind the last norm.

Nodes cost microseconds of each decoded token, so sums and norms are one node, and matrices that read the same rows
are one matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from appliance.errors import NotGGUF, UnsupportedModel
from appliance.store.gguf_header import TensorInfo
from converters.architectures import encoder
from converters.architectures.encoder import POOLING, Pooling
from converters.architectures.keys import Keys, Shapes, check_layers
from converters.architectures.rope import Tables
from converters.graph import MICROSOFT, Graph, cast, gelu_gate, pick, scaled, silu_gate
from converters.recipes.base import Recipe
from converters.targets import CPU

ALL_BIASES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
# Keys that change the computation only when they are not these values.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attention.sliding_window": (0,),
    "attention.causal": (True,),
    "attention.max_alibi_bias": (0.0,),
    "attention.clamp_kqv": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "use_parallel_residual": (False,),
    "rope.scaling.attn_factor": (0.0, 1.0),
    "tensor_data_layout": ("Meta AI original pth",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The dimensions of a decoder. An architecture's own configuration adds what only it has.

    With `pooling`, it embeds.
    """

    layers: int
    context_length: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float
    attention_scale: float
    vocab_size: int
    tied: bool
    pooling: Pooling | None = None


def dimensions(keys: Keys, tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """The fields of `Config`, from the keys that all decoders have."""
    heads = keys.integer("attention.head_count")
    hidden = keys.integer("embedding_length")
    head_dim = keys.integer("attention.key_length", hidden // heads)
    kv_heads = keys.integer("attention.head_count_kv", heads)
    if heads % kv_heads:
        raise NotGGUF(f"a damaged model: {heads} heads share {kv_heads} key heads")
    if keys.integer("attention.value_length", head_dim) != head_dim:
        raise UnsupportedModel(f"{keys.name}.attention.value_length other than key_length", ("equal lengths",))
    if head_dim % 16:
        raise UnsupportedModel(f"a head size of {head_dim}", ("multiples of 16",))
    layers = keys.integer("block_count")
    check_layers(layers, tensors)
    return {
        "layers": layers,
        "context_length": keys.integer("context_length"),
        "hidden": hidden,
        "intermediate": keys.integer("feed_forward_length"),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "epsilon": keys.number("attention.layer_norm_rms_epsilon"),
        "attention_scale": keys.number("attention.scale", head_dim**-0.5),
        "vocab_size": keys.vocabulary(),
        "tied": "output.weight" not in tensors,
        "pooling": _pooling(keys),
    }


def _pooling(keys: Keys) -> Pooling | None:
    kind = keys.any("pooling_type")
    if kind is not None and kind not in POOLING:
        known = tuple(f"{number} ({name})" for number, name in POOLING.items())
        raise UnsupportedModel(f"{keys.name}.pooling_type = {str(kind)[:40]} of a decoder", known)
    return None if kind is None else POOLING[kind]


def windowed(keys: Keys, layers: int, default: Sequence[bool]) -> tuple[bool, ...]:
    """Which layers see a window only: a pattern over and over.

    `attention.sliding_window_pattern` is a list of truth values, or the number of layers of which the last sees all.
    """
    given = keys.any("attention.sliding_window_pattern")
    pattern = default if given is None else given
    if type(given) is int and given > 0:
        pattern = [*[True] * (min(given, layers + 1) - 1), False]
    if not isinstance(pattern, Sequence) or not pattern or not all(type(value) is bool for value in pattern):
        raise NotGGUF(f"a damaged model: {keys.name}.attention.sliding_window_pattern is {str(given)[:40]}")
    return tuple(pattern[index % len(pattern)] for index in range(layers))


def outer_shapes(config: Config) -> Shapes:
    """The tensors before and behind the layers."""
    shapes: Shapes = {
        "token_embd.weight": (config.vocab_size, config.hidden),
        "output_norm.weight": (config.hidden,),
    }
    return shapes if config.tied else shapes | {"output.weight": (config.vocab_size, config.hidden)}


def attention_shapes(config: Config) -> Shapes:
    """The tensors of a layer's attention, and the norm before it."""
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    return {
        "attn_norm.weight": (config.hidden,),
        "attn_q.weight": (queries, config.hidden),
        "attn_k.weight": (keys, config.hidden),
        "attn_v.weight": (keys, config.hidden),
        "attn_output.weight": (config.hidden, queries),
    }


def gated_shapes(config: Config) -> Shapes:
    """The tensors of a layer's gated MLP, and the norm before it."""
    return {
        "ffn_norm.weight": (config.hidden,),
        "ffn_gate.weight": (config.intermediate, config.hidden),
        "ffn_up.weight": (config.intermediate, config.hidden),
        "ffn_down.weight": (config.hidden, config.intermediate),
    }


def head_norm_shapes(config: Config) -> Shapes:
    """The gains of the norms of queries and keys, head by head."""
    return {"attn_q_norm.weight": (config.head_dim,), "attn_k_norm.weight": (config.head_dim,)}


def post_norm_shapes(config: Config) -> Shapes:
    """The gains of the norms of what a layer's halves add to the stream."""
    return {"post_attention_norm.weight": (config.hidden,), "post_ffw_norm.weight": (config.hidden,)}


def biases(layer: Shapes, names: Sequence[str]) -> Shapes:
    """The biases of these matrices of a layer."""
    return {f"{name}.bias": layer[f"{name}.weight"][:1] for name in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What layers need of a run: ids [B,S], and for attention, int32, how long rows are.

    `lengths` [B] are one less than the tokens of each row with what is before them, `total` the most of these or the
    capacity of the cache, `queries` [B] the tokens of each row. `wanted` [B,R,1] are the rows that go on behind the
    last layer's attention, `texts` the inputs of a model that embeds: one of these two is None.
    """

    graph: Graph
    ids: ir.Value
    lengths: ir.Value
    total: ir.Value
    queries: ir.Value | None = None
    wanted: ir.Value | None = None
    texts: encoder.Inputs | None = None
    pooling: Pooling | None = None

    def only_wanted(self, x: ir.Value) -> ir.Value:
        """The rows of x [B,S,H] that the graph's output needs."""
        if self.wanted is not None:
            return pick(self.graph, x, self.wanted)
        assert self.texts
        assert self.pooling
        return x if self.pooling == "mean" else encoder.picked(self.graph, self.texts, x, self.pooling)


def begin(graph: Graph, config: Config) -> Step:
    """The inputs of the graph, as docs/design.md says under "Graph contract"."""
    if config.pooling:
        return _begin_texts(graph, config.pooling)
    int32, int64 = ir.DataType.INT32, ir.DataType.INT64
    ids = graph.input("input_ids", int64, ("B", "S"))
    lengths = graph.input("seqlens_k", int32, ("B",))
    total = graph.input("total_sequence_length", int32, ())
    queries = graph.input("query_seqlens", int32, ("B",)) if graph.target.ragged else None
    logit_rows = graph.input("logit_rows", int64, ("B", "R"))
    (wanted,) = graph.node("Unsqueeze", logit_rows, graph.constant("last_axis", np.array([-1])))
    return Step(graph=graph, ids=ids, lengths=lengths, total=total, queries=queries, wanted=wanted)


def _begin_texts(graph: Graph, pooling: Pooling) -> Step:
    """The same of a model that embeds: without a cache, attention needs no `queries`, and refuses them.

    On CUDA the kernel wants room for what would be cached, and did not get the length that a node computes.
    """
    if graph.target != CPU:
        raise UnsupportedModel(f"target {graph.target.name} for a decoder that embeds", (CPU.name,))
    int32 = ir.DataType.INT32
    texts = encoder.add_inputs(graph, ranks=False)
    (tokens,) = graph.node("Cast", texts.lengths, to=int32)
    (lengths,) = graph.node("Sub", tokens, graph.constant("one.int32", np.array(1, np.int32)))
    (longest,) = graph.node("Shape", texts.ids, start=1)
    (total,) = graph.node("Cast", longest, to=int32)
    return Step(graph=graph, ids=texts.ids, lengths=lengths, total=total, texts=texts, pooling=pooling)


class Stream:
    """The residual stream. What is added to it waits for the next norm, which then is one node with the sum.

    A 1 in the stream stands for `unit`.
    """

    def __init__(self, graph: Graph, weights: Recipe, epsilon: float, x: ir.Value, unit: float = 1.0) -> None:
        self.graph = graph
        self.weights = weights
        self.epsilon = epsilon
        self.x = x
        self.unit = unit
        self.added: ir.Value | None = None

    def add(self, x: ir.Value) -> None:
        """Add x to the stream."""
        if self.added is not None:
            (self.x,) = self.graph.node("Add", self.x, self.added)
        self.added = x

    def norm(self, name: str) -> ir.Value:
        """RMSNorm of the stream with the gain `name`."""
        gain, epsilon = self.weights.gain(name), self.epsilon / self.unit**2
        if self.added is None:
            return rms_norm(self.graph, self.x, gain, epsilon)
        x, _, _, self.x = self.graph.node(
            "SkipSimplifiedLayerNormalization",
            *(self.added, self.x, gain),
            domain=MICROSOFT,
            outputs=4,
            epsilon=epsilon,
        )
        self.added = None
        return x

    def add_normed(self, x: ir.Value, name: str) -> None:
        """Add the RMSNorm of x, which a matrix wrote, with the gain `name`."""
        self.add(rms_norm(self.graph, x, self.weights.written_gain(name, 1 / self.unit), self.epsilon))

    def only_wanted(self, step: Step, x: ir.Value) -> ir.Value:
        """Go on with the rows that the output needs, in the stream and in x, which is returned."""
        assert self.added is None
        x = step.only_wanted(x)
        self.x = step.only_wanted(self.x)
        return x


def normed_unit(graph: Graph) -> float:
    """The unit of a stream to which norms alone add, as Gemma's: such streams outgrow float16, 100,000 in Gemma 3."""
    return 64.0 if graph.target.dtype == ir.DataType.FLOAT16 else 1.0


def rms_norm(graph: Graph, x: ir.Value, gain: ir.Value, epsilon: float) -> ir.Value:
    """RMSNorm over the last axis."""
    return graph.node("SimplifiedLayerNormalization", x, gain, axis=-1, epsilon=epsilon)[0]


def attention(
    step: Step,
    config: Config,
    index: int,
    qkv: Sequence[ir.Value],
    rope: Tables | None,
    *,
    window: int = 0,
    softcap: float = 0.0,
) -> ir.Value:
    """Causal attention of layer `index` over the cache and into it, if there is one: [B,S,heads · head_dim].

    `qkv` are queries, keys and values, not yet rotated, or one value that has all three side by side. Each token sees
    `window` tokens, itself included; 0 is all. `softcap` · tanh(scores / softcap) bounds scores.
    """
    graph, shape = step.graph, ("B", config.kv_heads, "C", config.head_dim)
    names = [] if step.texts else [f"{kind}.{index}" for kind in ("key", "value")]
    past = [graph.input(f"past_{name}", graph.target.dtype, shape) for name in names]
    queries_keys_values = [*qkv, None, None][:3]
    optional = {"rotary_interleaved": int(rope.interleaved)} if rope else {}
    optional |= {"local_window_size": window} if 0 < window < config.context_length else {}
    x, *present = graph.node(
        "GroupQueryAttention",
        *(*queries_keys_values, *(past or (None, None)), step.lengths, step.total),
        *((rope.cos, rope.sin) if rope else (None, None)),
        *((*[None] * 7, step.queries) if step.queries is not None else ()),
        domain=MICROSOFT,
        outputs=1 + len(names),
        num_heads=config.heads,
        kv_num_heads=config.kv_heads,
        scale=config.attention_scale,
        do_rotary=int(rope is not None),
        **optional,
        **({"softcap": softcap} if softcap else {}),
    )
    for name, value in zip(names, present, strict=True):
        graph.output(value, f"present_{name}", shape, graph.target.dtype)
    return x


def packed_qkv(weights: Recipe, x: ir.Value, layer: str) -> ir.Value:
    """Queries, keys and values of a layer side by side, from the stream behind its norm."""
    names = (f"{layer}.attn_q", f"{layer}.attn_k", f"{layer}.attn_v")
    return weights.linear(x, *names, after=f"{layer}.attn_norm.weight")


def normed_heads(graph: Graph, weights: Recipe, config: Config, qkv: ir.Value, layer: str) -> list[ir.Value]:
    """Queries, keys and values of packed ones, each head of queries and keys behind an RMSNorm.

    Both gains [head_dim] are one gain [heads, head_dim], so queries and keys go through one node, or two.
    """
    heads, keys, size = config.heads, config.kv_heads, config.head_dim
    both, constant = (heads + keys) * size, graph.constant
    gains = weights.head_gains(f"{layer}.attn_q_norm", f"{layer}.attn_k_norm", heads, keys)
    x, v = graph.node("Split", qkv, constant("widths.qk+v", np.array([both, keys * size])), axis=-1, outputs=2)
    (x,) = graph.node("Reshape", x, constant("heads.split", np.array([0, 0, heads + keys, size])))
    if graph.target.head_gains:
        x = rms_norm(graph, x, gains, config.epsilon)
    else:
        x = rms_norm(graph, x, constant("heads.ones", np.ones(size, np.float32)), config.epsilon)
        (x,) = graph.node("Mul", x, gains)
    (x,) = graph.node("Reshape", x, constant("heads.join", np.array([0, 0, both])))
    q, k = graph.node("Split", x, constant("widths.q+k", np.array([heads, keys]) * size), axis=-1, outputs=2)
    return [q, k, v]


def swiglu(graph: Graph, weights: Recipe, x: ir.Value, layer: str) -> ir.Value:
    """down(silu(gate(x)) · up(x)), from the stream behind the layer's norm and for the stream."""
    return weights.back(silu_gate(graph, *_gate_up(weights, x, layer)), f"{layer}.ffn_down")


def geglu(graph: Graph, weights: Recipe, x: ir.Value, layer: str) -> ir.Value:
    """down(gelu(gate(x)) · up(x)), with the tanh form of gelu."""
    return weights.back(gelu_gate(graph, *_gate_up(weights, x, layer)), f"{layer}.ffn_down")


def _gate_up(weights: Recipe, x: ir.Value, layer: str) -> Sequence[ir.Value]:
    return weights.gate_up(x, f"{layer}.ffn_gate", f"{layer}.ffn_up", after=f"{layer}.ffn_norm.weight")


def head(step: Step, weights: Recipe, config: Config, x: ir.Value, *, scale: float = 1.0, softcap: float = 0.0) -> None:
    """The output `logits`, from the stream behind output_norm: `scale` times the head's product, softly capped.

    Of a model that embeds, `embeddings` instead: the stream itself, pooled.
    """
    graph = step.graph
    if step.texts:
        assert config.pooling
        pooled = encoder.pooled(graph, step.texts, x, config.pooling)
        graph.output(cast(graph, pooled, ir.DataType.FLOAT), "embeddings", ("B", config.hidden))
        return
    logits = weights.head(x, "token_embd" if config.tied else "output", after="output_norm.weight")
    if softcap:
        logits = scaled(graph, logits, scale / softcap, "logits.inverse_cap")
        (logits,) = graph.node("Tanh", logits)
        scale = softcap
    logits = cast(graph, scaled(graph, logits, scale, "logits.scale"), ir.DataType.FLOAT)
    graph.output(logits, "logits", ("B", "R", config.vocab_size))
