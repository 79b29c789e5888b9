"""The granite architecture: Granite 3 and the dense Granite 4 models.

Llama with four multipliers: of the embeddings, of scores, of what each half of a layer adds to the stream, and (its
inverse) of the logits. After transformers' modeling_granite.py and llama.cpp's src/models/granite.cpp.

The stream is kept divided by the multiplier of what is added, so that adding needs none: an RMSNorm does not see how
large its rows are, except by its epsilon, which is divided by the multiplier's square.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from appliance.store.gguf_header import TensorInfo
from converters.architectures import decoder
from converters.architectures.decoder import Step, Stream
from converters.architectures.keys import Keys, check_tensors, in_layers
from converters.architectures.rope import Rope, Tables, read_rope, tables
from converters.graph import Graph, scaled
from converters.recipes.base import Recipe

NAME = "granite"
FACTORS = "rope_freqs.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(decoder.Config):
    """A granite model; without `rope`, queries and keys do not turn. `logit_scale` divides."""

    rope: Rope | None
    embedding_scale: float
    residual_scale: float
    logit_scale: float


def read_config(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Config:
    """Read and check everything that the graph depends on; raises as `Architecture.read_config` says."""
    keys = Keys(NAME, metadata)
    config = Config(**granite_fields(keys, tensors))
    keys.refuse_others(decoder.NEUTRAL)

    layer = decoder.attention_shapes(config) | decoder.gated_shapes(config)
    optional = in_layers(config.layers, decoder.biases(layer, decoder.ALL_BIASES))
    optional[FACTORS] = (config.head_dim // 2,)
    check_tensors(NAME, tensors, decoder.outer_shapes(config) | in_layers(config.layers, layer), optional)
    return config


def granite_fields(keys: Keys, tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """The fields of `Config`. Of Granite 4, rope.scaling.finetuned says whether there is a rotary embedding."""
    dimensions = decoder.dimensions(keys, tensors)
    rope = read_rope(keys, dimensions["head_dim"], interleaved=True, factors=FACTORS)
    return {
        **dimensions,
        "rope": rope if keys.flag("rope.scaling.finetuned", True) else None,
        "embedding_scale": keys.number("embedding_scale", 0.0) or 1.0,
        "residual_scale": keys.number("residual_scale", 0.0) or 1.0,
        "logit_scale": keys.number("logit_scale", 0.0) or 1.0,
    }


def build(graph: Graph, weights: Recipe, config: Config) -> None:
    """Add the whole decoder to the graph."""
    step = decoder.begin(graph, config)
    rope, stream = begin(graph, weights, config, step)
    for index in range(config.layers):
        layer = f"blk.{index}"
        x = stream.norm(f"{layer}.attn_norm.weight")
        x = decoder.attention(step, config, index, [decoder.packed_qkv(weights, x, layer)], rope)
        if index == config.layers - 1:
            x = stream.only_wanted(step, x)
        stream.add(weights.back(x, f"{layer}.attn_output"))
        x = stream.norm(f"{layer}.ffn_norm.weight")
        stream.add(decoder.swiglu(graph, weights, x, layer))
    finish(step, weights, config, stream.norm("output_norm.weight"))


def begin(graph: Graph, weights: Recipe, config: Config, step: Step) -> tuple[Tables | None, Stream]:
    """The rope's tables, and the stream of the embeddings, divided by the residual multiplier."""
    rope = tables(weights, config.rope, config.context_length) if config.rope else None
    embeddings = weights.embedding(step.ids, "token_embd")
    embeddings = scaled(graph, embeddings, config.embedding_scale / config.residual_scale, "embedding.scale")
    epsilon = config.epsilon / config.residual_scale**2
    return rope, Stream(graph, weights, epsilon, weights.enter(embeddings, config.hidden))


def finish(step: Step, weights: Recipe, config: Config, x: ir.Value) -> None:
    """The graph's output."""
    decoder.head(step, weights, config, x, scale=1 / config.logit_scale)
