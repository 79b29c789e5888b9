"""The qwen2 architecture: Qwen 1.5 to Qwen 2.5, their text models.

Llama with biases of queries, keys and values, and rotary pairs across a head's halves. After transformers'
modeling_qwen2.py and llama.cpp's src/models/qwen2.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appliance.store.gguf_header import TensorInfo
from converters.architectures import decoder
from converters.architectures.keys import Keys, check_tensors, in_layers
from converters.architectures.llama import Config, build
from converters.architectures.rope import read_rope

__all__ = ["NAME", "build", "read_config"]

NAME = "qwen2"


def read_config(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Config:
    """Read and check everything that the graph depends on; raises as `Architecture.read_config` says."""
    keys = Keys(NAME, metadata)
    dimensions = decoder.dimensions(keys, tensors)
    config = Config(**dimensions, rope=read_rope(keys, dimensions["head_dim"], interleaved=False))
    keys.refuse_others(decoder.NEUTRAL)

    attention = decoder.attention_shapes(config)
    layer = attention | decoder.biases(attention, ("attn_q", "attn_k", "attn_v")) | decoder.gated_shapes(config)
    check_tensors(NAME, tensors, decoder.outer_shapes(config) | in_layers(config.layers, layer), {})
    return config
