"""The gemma3 architecture: Gemma 3, its text model.

As Gemma 2 without a cap of scores, and queries and keys pass an RMSNorm head by head before they turn. Five layers of
six see a window, with a rotary embedding of its own base; the sixth sees everything, and only its positions are
stretched in the larger models. Logits are capped only where a file says so. After transformers' modeling_gemma3.py and
llama.cpp's src/models/gemma3.cpp; Ollama's files call the bases rope.global and rope.local.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from appliance.store.gguf_header import TensorInfo
from converters.architectures import decoder
from converters.architectures.decoder import Stream
from converters.architectures.gemma2 import query_scale
from converters.architectures.keys import Keys, check_tensors, in_layers
from converters.architectures.rope import Rope, read_rope, tables
from converters.graph import Graph, scaled
from converters.recipes.base import Recipe

NAME = "gemma3"
LAYERS_OF_27B = 62
WINDOWED = (*[True] * 5, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(decoder.Config):
    """A gemma3 model; `windowed` says which layers see `window` tokens only, and turn by `local_rope`."""

    rope: Rope
    local_rope: Rope
    window: int
    windowed: tuple[bool, ...]
    logit_cap: float


def read_config(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Config:
    """Read and check everything that the graph depends on; raises as `Architecture.read_config` says."""
    keys = Keys(NAME, metadata)
    dimensions = decoder.dimensions(keys, tensors)
    dimensions["attention_scale"] = query_scale(keys, dimensions, LAYERS_OF_27B)
    rope = read_rope(keys, dimensions["head_dim"], interleaved=False)
    rope = replace(rope, base=keys.number("rope.global.freq_base", rope.base))
    local_base = keys.number("rope.freq_base_swa", keys.number("rope.local.freq_base", 10000.0))
    config = Config(
        **dimensions,
        rope=rope,
        local_rope=Rope(rope.size, local_base, interleaved=False),
        window=keys.integer("attention.sliding_window"),
        windowed=decoder.windowed(keys, dimensions["layers"], WINDOWED),
        logit_cap=keys.number("final_logit_softcapping", 0.0),
    )
    keys.refuse_others(decoder.NEUTRAL)

    attention = decoder.attention_shapes(config) | decoder.head_norm_shapes(config)
    layer = attention | decoder.gated_shapes(config) | decoder.post_norm_shapes(config)
    check_tensors(NAME, tensors, decoder.outer_shapes(config) | in_layers(config.layers, layer), {})
    return config


def build(graph: Graph, weights: Recipe, config: Config) -> None:
    """Add the whole decoder to the graph."""
    step = decoder.begin(graph, config)
    rope = tables(weights, config.rope, config.context_length)
    local_rope = tables(weights, config.local_rope, config.context_length, ".local")
    unit = decoder.normed_unit(graph)
    embeddings = scaled(graph, weights.embedding(step.ids, "token_embd"), config.hidden**0.5 / unit, "embedding.scale")
    stream = Stream(graph, weights, config.epsilon, weights.enter(embeddings, config.hidden), unit)
    for index in range(config.layers):
        layer = f"blk.{index}"
        x = stream.norm(f"{layer}.attn_norm.weight")
        qkv = decoder.normed_heads(graph, weights, config, decoder.packed_qkv(weights, x, layer), layer)
        turns, window = (local_rope, config.window) if config.windowed[index] else (rope, 0)
        x = decoder.attention(step, config, index, qkv, turns, window=window)
        if index == config.layers - 1:
            x = stream.only_wanted(step, x)
        x = weights.back(x, f"{layer}.attn_output")
        stream.add_normed(x, f"{layer}.post_attention_norm.weight")
        x = decoder.geglu(graph, weights, stream.norm(f"{layer}.ffn_norm.weight"), layer)
        stream.add_normed(x, f"{layer}.post_ffw_norm.weight")
    decoder.head(step, weights, config, stream.norm("output_norm.weight"), softcap=config.logit_cap)
