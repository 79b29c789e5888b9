"""The KV cache in int8: what a token's keys and values are rounded by is found by running the finished graph.

Keys have channels that are ten times as large as others, whatever the token, so every channel of every head has a
scale of its own (Liu et al., 2024, "KIVI", arXiv:2402.02750, for keys; values take the same form here). A scale is
the largest magnitude that a calibration text puts into the channel, with some room, over 127; what is larger later is
clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from converters.graph import Graph

Floats = NDArray[np.float32]

CALIBRATION_TOKENS = 512
HEADROOM = 1.1  # tokens that the text does not have
KEY_SCALE_INPUT = 12  # GroupQueryAttention's; the values' follows
ATTRIBUTES = (
    ir.AttrInt64("kv_cache_bit_width", 8),
    ir.AttrString("k_quant_type", "PER_CHANNEL"),
    ir.AttrString("v_quant_type", "PER_CHANNEL"),
)


def cache_scales(path: Path, tokens: Sequence[int]) -> dict[str, Floats]:
    """Scales [kv_heads, 1, head_dim] of each past_* input of the float32 graph `path`, from its cache of `tokens`."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    count = min(len(tokens), CALIBRATION_TOKENS)
    feeds = {
        "input_ids": np.array([tokens[:count]], np.int64),
        "seqlens_k": np.array([count - 1], np.int32),
        "total_sequence_length": np.array(count, np.int32),
        "query_seqlens": np.array([count], np.int32),
        "logit_rows": np.array([[count - 1]], np.int64),
    }
    for value in session.get_inputs():
        if value.name.startswith("past_"):
            _, heads, _, size = value.shape
            feeds[value.name] = np.zeros((1, heads, count, size), np.float32)
    names = [name for name in feeds if name.startswith("past_")]
    presents = session.run([name.replace("past_", "present_", 1) for name in names], feeds)
    return {name: _scales(present[0]) for name, present in zip(names, presents, strict=True)}


def _scales(cached: Floats) -> Floats:
    """Of a cache [kv_heads, tokens, head_dim]."""
    largest = np.abs(cached).max(axis=1, keepdims=True) * np.float32(HEADROOM / 127)
    scales: Floats = np.maximum(largest, np.finfo(np.float32).tiny)
    return scales


def cache_in_int8(graph: Graph, scales: dict[str, Floats]) -> None:
    """Turn the cache of a graph from float32 into int8, in place."""
    for node in graph.nodes:
        if node.op_type == "GroupQueryAttention":
            past = node.inputs[3:5]
            for place, value in enumerate(past):
                assert value is not None
                assert value.name
                scale = graph.late_constant(f"{value.name}.scale", scales[value.name])
                node.replace_input_with(KEY_SCALE_INPUT + place, scale)
                value.type = ir.TensorType(ir.DataType.INT8)
                node.outputs[1 + place].type = ir.TensorType(ir.DataType.INT8)
            for attribute in ATTRIBUTES:
                node.attributes[attribute.name] = attribute
