"""The llama architecture: Llama 1–3, SmolLM, Mistral without windows, and the many models of that shape.

Per layer: RMSNorm, attention with rotary embedding over pairs (GGUF keeps llama weights in that order),
RMSNorm, SwiGLU. Metadata and tensor names after llama.cpp's gguf-py/gguf/constants.py and src/llama-model.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.errors import NotGGUF, UnsupportedModel
from appliance.store.gguf_header import TensorInfo
from converters.graph import MICROSOFT, Graph, pick, silu_gate
from converters.recipes import Recipe

NAME = "llama"
LINEARS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
NORMS = ("attn_norm", "ffn_norm")
# Keys that change the computation only when they are not these values.
NEUTRAL: dict[str, tuple[Any, ...]] = {
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
    "rope.scaling.type": ("none", "linear"),
    "tensor_data_layout": ("Meta AI original pth",),
}
READ = (
    "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.layer_norm_rms_epsilon", "attention.scale", "rope.freq_base", "rope.dimension_count",
    "rope.scaling.factor", "rope.scale_linear", "rope.scaling.original_context_length", "rope.scaling.finetuned",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Config:
    """The dimensions of a llama model, checked against its tensors."""

    layers: int
    context_length: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float
    attention_scale: float
    rope_base: float
    rope_scale: float
    vocab_size: int
    tied: bool


def read_config(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Config:
    """Read and check everything that the graph depends on.

    Raises NotGGUF for what is missing or has another shape, UnsupportedModel for what the graph cannot express.
    """
    _refuse_unknown(metadata)
    heads = _integer(metadata, "attention.head_count")
    hidden = _integer(metadata, "embedding_length")
    head_dim = _integer(metadata, "attention.key_length", hidden // heads)
    config = Config(
        layers=_integer(metadata, "block_count"),
        context_length=_integer(metadata, "context_length"),
        hidden=hidden,
        intermediate=_integer(metadata, "feed_forward_length"),
        heads=heads,
        kv_heads=_integer(metadata, "attention.head_count_kv", heads),
        head_dim=head_dim,
        epsilon=_number(metadata, "attention.layer_norm_rms_epsilon"),
        attention_scale=_number(metadata, "attention.scale", head_dim**-0.5),
        rope_base=_number(metadata, "rope.freq_base", 10000.0),
        rope_scale=_rope_scale(metadata),
        vocab_size=len(metadata.get("tokenizer.ggml.tokens", ())),
        tied="output.weight" not in tensors,
    )
    if heads % config.kv_heads:
        raise NotGGUF(f"a damaged model: {heads} heads share {config.kv_heads} key heads")
    if _integer(metadata, "attention.value_length", head_dim) != head_dim:
        raise UnsupportedModel("llama.attention.value_length other than key_length", ("equal lengths",))
    if _integer(metadata, "rope.dimension_count", head_dim) != head_dim:
        raise UnsupportedModel("rotation of a part of each head (llama.rope.dimension_count)", ("whole heads",))
    if head_dim % 16:
        raise UnsupportedModel(f"a head size of {head_dim}", ("multiples of 16",))
    _check_tensors(config, tensors)
    return config


def expected_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every tensor that the graph uses, with its shape, [out, in] for matrices."""
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (config.vocab_size, config.hidden),
        "output_norm.weight": (config.hidden,),
    }
    if not config.tied:
        shapes["output.weight"] = (config.vocab_size, config.hidden)
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (config.hidden,),
        "attn_q": (queries, config.hidden),
        "attn_k": (keys, config.hidden),
        "attn_v": (keys, config.hidden),
        "attn_output": (config.hidden, queries),
        "ffn_norm": (config.hidden,),
        "ffn_gate": (config.intermediate, config.hidden),
        "ffn_up": (config.intermediate, config.hidden),
        "ffn_down": (config.hidden, config.intermediate),
    }
    for index in range(config.layers):
        shapes |= {f"blk.{index}.{name}.weight": shape for name, shape in layer.items()}
    return shapes


def optional_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Tensors that some models have."""
    expected = expected_shapes(config)
    shapes: dict[str, tuple[int, ...]] = {"rope_freqs.weight": (config.head_dim // 2,)}
    for index in range(config.layers):
        for name in LINEARS:
            shapes[f"blk.{index}.{name}.bias"] = expected[f"blk.{index}.{name}.weight"][:1]
    return shapes


def build(graph: Graph, weights: Recipe, config: Config) -> None:
    """Add the whole decoder of design §3 to the graph."""
    int64 = ir.DataType.INT64
    ids = graph.input("input_ids", int64, ("B", "S"))
    attention = Attention(graph, weights, config)
    logit_rows = graph.input("logit_rows", int64, ("B", "R"))
    (positions,) = graph.node("Unsqueeze", logit_rows, graph.constant("last_axis", np.array([-1])))

    residual = weights.enter(weights.embedding(ids, "token_embd"), config.hidden)
    gain = weights.gain("blk.0.attn_norm.weight")
    (x,) = graph.node("SimplifiedLayerNormalization", residual, gain, axis=-1, epsilon=config.epsilon)
    for index in range(config.layers):
        layer = f"blk.{index}"
        reads = (f"{layer}.attn_q", f"{layer}.attn_k", f"{layer}.attn_v")
        x = attention.layer(index, weights.linear(x, *reads, after=f"{layer}.attn_norm.weight"))
        last = index == config.layers - 1
        if last:  # from here on, only the rows whose logits are wanted
            x, residual = pick(graph, x, positions), pick(graph, residual, positions)
        x = weights.back(x, f"{layer}.attn_output")
        norm = f"{layer}.ffn_norm.weight"
        x, residual = _add_norm(graph, weights, x, residual, norm, config)
        x = silu_gate(graph, *weights.gate_up(x, f"{layer}.ffn_gate", f"{layer}.ffn_up", after=norm))
        x = weights.back(x, f"{layer}.ffn_down")
        following = "output_norm.weight" if last else f"blk.{index + 1}.attn_norm.weight"
        x, residual = _add_norm(graph, weights, x, residual, following, config)

    logits = weights.linear(x, "token_embd" if config.tied else "output", after="output_norm.weight")
    graph.output(logits, "logits", ("B", "R", config.vocab_size))


class Attention:
    """The attention of every layer, with the inputs that the layers share."""

    def __init__(self, graph: Graph, weights: Recipe, config: Config) -> None:
        int32 = ir.DataType.INT32
        self.graph = graph
        self.config = config
        lengths = graph.input("seqlens_k", int32, ("B",)), graph.input("total_sequence_length", int32, ())
        self.shared = (*lengths, *_rope_tables(weights, config))
        self.queries = graph.input("query_seqlens", int32, ("B",))

    def layer(self, index: int, qkv: ir.Value) -> ir.Value:
        """Causal attention of packed, not yet rotated queries, keys and values, over the cache and into it."""
        config, shape = self.config, ("B", self.config.kv_heads, "C", self.config.head_dim)
        names = [f"{kind}.{index}" for kind in ("key", "value")]
        past = [self.graph.input(f"past_{name}", ir.DataType.FLOAT, shape) for name in names]
        x, *present = self.graph.node(
            "GroupQueryAttention",
            *(qkv, None, None, *past, *self.shared, *[None] * 7, self.queries),
            domain=MICROSOFT,
            outputs=3,
            num_heads=config.heads,
            kv_num_heads=config.kv_heads,
            scale=config.attention_scale,
            do_rotary=1,
            rotary_interleaved=1,
        )
        for name, value in zip(names, present, strict=True):
            self.graph.output(value, f"present_{name}", shape)
        return x


def _add_norm(
    graph: Graph, weights: Recipe, x: ir.Value, residual: ir.Value, gain: str, config: Config
) -> tuple[ir.Value, ir.Value]:
    """(RMSNorm(x + residual) · gain, x + residual)"""
    normed, _, _, total = graph.node(
        "SkipSimplifiedLayerNormalization",
        *(x, residual, weights.gain(gain)),
        domain=MICROSOFT,
        outputs=4,
        epsilon=config.epsilon,
    )
    return normed, total


def _rope_tables(weights: Recipe, config: Config) -> tuple[ir.Value, ir.Value]:
    """cos and sin [context_length, head_dim / 2]; rope_freqs.weight divides the frequencies (Llama 3)."""
    half = config.head_dim // 2
    frequencies = config.rope_base ** (-np.arange(half, dtype=np.float64) / half) / config.rope_scale
    factors = weights.source.tensors.get("rope_freqs.weight")
    if factors:
        frequencies = frequencies / weights.source.values(factors)

    def table(name: str, function: Any) -> ir.Value:
        def rows(start: int, stop: int) -> NDArray[np.float32]:
            return function(np.arange(start, stop)[:, None] * frequencies).astype(np.float32)  # type: ignore[no-any-return]

        return weights.table(name, (config.context_length, half), rows)

    return table("cos", np.cos), table("sin", np.sin)


def _refuse_unknown(metadata: Mapping[str, Any]) -> None:
    """Refuse every key of this architecture that the graph would ignore."""
    for key, value in metadata.items():
        name = key.removeprefix(f"{NAME}.")
        if name == key or name in READ:
            continue
        if name not in NEUTRAL:
            raise UnsupportedModel(key[:80], tuple(f"{NAME}.{known}" for known in READ))
        if value not in NEUTRAL[name]:
            raise UnsupportedModel(f"{key} = {str(value)[:40]}", tuple(map(str, NEUTRAL[name])))


def _check_tensors(config: Config, tensors: Mapping[str, TensorInfo]) -> None:
    if config.layers > len(tensors):
        raise NotGGUF(f"a damaged model: {config.layers} layers, but only {len(tensors)} tensors")
    expected, optional = expected_shapes(config), optional_shapes(config)
    for name, shape in expected.items():
        if name not in tensors:
            raise NotGGUF(f"a damaged model: tensor {name} is missing")
        if tensors[name].shape != shape:
            raise NotGGUF(f"a damaged model: tensor {name} has shape {tensors[name].shape}, not {shape}")
    for name, tensor in tensors.items():
        if name not in expected and name not in optional:
            raise UnsupportedModel(f"tensor {name[:80]} in a {NAME} model", tuple(sorted({*LINEARS, *NORMS})))
        if name in optional and tensor.shape != optional[name]:
            raise NotGGUF(f"a damaged model: tensor {name} has shape {tensor.shape}, not {optional[name]}")


def _rope_scale(metadata: Mapping[str, Any]) -> float:
    """By how much positions are stretched; "linear" is llama.cpp's default type, and a factor of 0 means none."""
    if metadata.get(f"{NAME}.rope.scaling.type") == "none":
        return 1.0
    names = ("rope.scaling.factor", "rope.scale_linear")
    given = [name for name in names if metadata.get(f"{NAME}.{name}", 0) != 0]
    return _number(metadata, given[0]) if given else 1.0


def _integer(metadata: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = _lookup(metadata, name, default)
    if isinstance(value, list):
        raise UnsupportedModel(f"{NAME}.{name} that differs by layer", ("one value for all layers",))
    if type(value) is not int or not 0 < value < 1 << 24:
        raise NotGGUF(f"a damaged model: {NAME}.{name} is {str(value)[:40]}")
    return value


def _number(metadata: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = _lookup(metadata, name, default)
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise NotGGUF(f"a damaged model: {NAME}.{name} is {str(value)[:40]}")
    return float(value)


def _lookup(metadata: Mapping[str, Any], name: str, default: Any) -> Any:
    value = metadata.get(f"{NAME}.{name}", default)
    if value is None:
        raise NotGGUF(f"a damaged model: metadata {NAME}.{name} is missing")
    return value
