"""The gemma2 architecture: Gemma 2.

Embeddings times √hidden. Per layer: RMSNorm, attention, RMSNorm of what it adds, RMSNorm, GeGLU, RMSNorm of what it
adds. Layers take turns in seeing a window and everything; scores and logits are softly capped. GGUF's norm gains have
the 1 that Gemma adds to them. After transformers' modeling_gemma2.py and llama.cpp's src/models/gemma2.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.store.gguf_header import TensorInfo
from converters.architectures import decoder
from converters.architectures.decoder import Stream
from converters.architectures.keys import Keys, check_tensors, in_layers
from converters.architectures.rope import Rope, read_rope, tables
from converters.graph import Graph, scaled
from converters.recipes.base import Recipe

NAME = "gemma2"
LAYERS_OF_27B = 46  # whose queries are scaled by its hidden size instead of its heads' size; no key says so
WINDOWED = (True, False)  # and again


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(decoder.Config):
    """A gemma2 model; `windowed` says which layers see `window` tokens only."""

    rope: Rope
    window: int
    windowed: tuple[bool, ...]
    score_cap: float
    logit_cap: float


def read_config(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Config:
    """Read and check everything that the graph depends on; raises as `Architecture.read_config` says."""
    keys = Keys(NAME, metadata)
    dimensions = decoder.dimensions(keys, tensors)
    dimensions["attention_scale"] = query_scale(keys, dimensions, LAYERS_OF_27B)
    config = Config(
        **dimensions,
        rope=read_rope(keys, dimensions["head_dim"], interleaved=False),
        window=keys.integer("attention.sliding_window", 4096),
        windowed=decoder.windowed(keys, dimensions["layers"], WINDOWED),
        score_cap=keys.number("attn_logit_softcapping", 0.0),
        logit_cap=keys.number("final_logit_softcapping", 0.0),
    )
    keys.refuse_others(decoder.NEUTRAL)

    layer = decoder.attention_shapes(config) | decoder.gated_shapes(config) | decoder.post_norm_shapes(config)
    check_tensors(NAME, tensors, decoder.outer_shapes(config) | in_layers(config.layers, layer), {})
    return config


def query_scale(keys: Keys, dimensions: Mapping[str, Any], layers_of_27b: int) -> float:
    """What scores are multiplied by. Of the 27B models, which no key tells apart, it follows from the hidden size."""
    large = dimensions["layers"] == layers_of_27b
    size = dimensions["hidden"] // dimensions["heads"] if large else dimensions["head_dim"]
    return keys.number("attention.scale", size**-0.5)


def build(graph: Graph, weights: Recipe, config: Config) -> None:
    """Add the whole decoder to the graph."""
    step = decoder.begin(graph, config)
    rope = tables(weights, config.rope, config.context_length)
    unit = decoder.normed_unit(graph)
    embeddings = scaled(graph, weights.embedding(step.ids, "token_embd"), config.hidden**0.5 / unit, "embedding.scale")
    stream = Stream(graph, weights, config.epsilon, weights.enter(embeddings, config.hidden), unit)
    for index in range(config.layers):
        layer = f"blk.{index}"
        x = stream.norm(f"{layer}.attn_norm.weight")
        qkv = decoder.packed_qkv(weights, x, layer)
        window = config.window if config.windowed[index] else 0
        x = decoder.attention(step, config, index, [qkv], rope, window=window, softcap=config.score_cap)
        if index == config.layers - 1:
            x = stream.only_wanted(step, x)
        x = weights.back(x, f"{layer}.attn_output")
        stream.add_normed(x, f"{layer}.post_attention_norm.weight")
        x = decoder.geglu(graph, weights, stream.norm(f"{layer}.ffn_norm.weight"), layer)
        stream.add_normed(x, f"{layer}.post_ffw_norm.weight")
    decoder.head(step, weights, config, stream.norm("output_norm.weight"), softcap=config.logit_cap)
