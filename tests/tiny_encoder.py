"""Encoders so small that they are made and converted in a fraction of a second: random weights, real formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter

from appliance.bundle import Bundle
from converters.bundle import convert
from tests.tiny_model import add_key, add_tensor

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁the", "▁sky", "▁is", "▁blue", "s", "▁a", "▁of", "▁and")
VOCABULARY = 64


def write_gguf(
    path: Path,
    architecture: str,
    tensors: Mapping[str, np.ndarray],
    *,
    heads: int,
    epsilon: float = 1e-12,
    context_length: int = 48,
    pooling: int = 1,
    tensor_type: str = "F32",
    metadata: Mapping[str, Any] = {},
) -> Path:
    """Write a GGUF file of these tensors by their GGUF names, float32 [out, in]; returns its path.

    `metadata` adds keys of the architecture or, with None, leaves them out.
    """
    tokens = [*WORDS, *(f"▁w{index}" for index in range(len(tensors["token_embd.weight"]) - len(WORDS)))]
    inner, hidden = reversed(tensors["blk.0.ffn_down.weight"].shape)
    keys: dict[str, Any] = {
        "block_count": 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blk.")),
        "context_length": context_length,
        "embedding_length": hidden,
        "feed_forward_length": inner,
        "attention.head_count": heads,
        "attention.layer_norm_epsilon": epsilon,
        "attention.causal": False,
        "pooling_type": pooling,
    }
    writer = GGUFWriter(path, architecture)
    for key, value in (keys | dict(metadata)).items():
        add_key(writer, f"{architecture}.{key}", value)
    for key, value in {
        "general.name": "tiny",
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * 4 + [1] * (len(tokens) - 4),
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
    }.items():
        add_key(writer, key, value)
    for name, array in tensors.items():
        # as in llama.cpp's files, only the matrices of layers, and the words, are quantised
        kind = tensor_type if name.startswith(("blk.", "token_embd.")) else "F32"
        add_tensor(writer, name, np.ascontiguousarray(array, np.float32), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_bert(
    layers: int = 2,
    hidden: int = 64,
    intermediate: int = 128,
    positions: int = 48,
    types: int = 2,
    vocabulary: int = VOCABULARY,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """The tensors of a bert model by their GGUF names."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (vocabulary, hidden),
        "position_embd": (positions, hidden),
        "token_types": (types, hidden),
        "token_embd_norm": (hidden,),
    }
    for index in range(layers):
        layer = {
            "attn_q": (hidden, hidden),
            "attn_k": (hidden, hidden),
            "attn_v": (hidden, hidden),
            "attn_output": (hidden, hidden),
            "attn_output_norm": (hidden,),
            "ffn_up": (intermediate, hidden),
            "ffn_down": (hidden, intermediate),
            "layer_output_norm": (hidden,),
        }
        shapes |= {f"blk.{index}.{name}": shape for name, shape in layer.items()}
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        matrix = len(shape) == 2
        values = 1.5 * rng.standard_normal(shape) / np.sqrt(shape[-1]) if matrix else rng.uniform(0.5, 1.5, shape)
        tensors[f"{name}.weight"] = values.astype(np.float32)
        if name.startswith("blk.") or not matrix:
            tensors[f"{name}.bias"] = (rng.standard_normal(shape[0]) / 4).astype(np.float32)
    return tensors


def write_tiny_encoder(folder: Path, recipe: str = "fp32", **overrides: Any) -> Bundle:
    """Write a tiny bert beside `folder` and convert it into `folder`; returns its description."""
    source = write_gguf(folder.with_name("tiny.gguf"), "bert", random_bert(**overrides), heads=4)
    try:
        return convert(source, folder, recipe)
    finally:
        source.unlink()
