"""Encoders so small that they are made and converted in a fraction of a second: random weights, real formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter

from appliance.bundle import MODEL, Bundle, write_description
from converters.architectures import bert
from converters.gguf_source import GGUFSource
from converters.graph import ENCODER_OPSET, Graph
from converters.recipes import Full
from converters.weights import WeightsFile
from tests.tiny_model import add_key, add_tensor

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁the", "▁sky", "▁is", "▁blue", "s", "▁a", "▁of", "▁and")
VOCABULARY = 64


def write_bert_gguf(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    *,
    heads: int,
    epsilon: float = 1e-12,
    pooling: int = 1,
    tensor_type: str = "F32",
    metadata: Mapping[str, Any] = {},
) -> Path:
    """Write a GGUF file of these tensors by their GGUF names, float32 [out, in]; returns its path.

    `metadata` adds keys or, with None, leaves them out.
    """
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blk."))
    positions, hidden = tensors["position_embd.weight"].shape
    tokens = [*WORDS, *(f"w{index}" for index in range(len(tensors["token_embd.weight"]) - len(WORDS)))]
    keys: dict[str, Any] = {
        "general.name": "tiny",
        "bert.block_count": layers,
        "bert.context_length": positions,
        "bert.embedding_length": hidden,
        "bert.feed_forward_length": len(tensors["blk.0.ffn_up.weight"]),
        "bert.attention.head_count": heads,
        "bert.attention.layer_norm_epsilon": epsilon,
        "bert.attention.causal": False,
        "bert.pooling_type": pooling,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * 4 + [1] * (len(tokens) - 4),
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
    }
    writer = GGUFWriter(path, "bert")
    for key, value in (keys | dict(metadata)).items():
        add_key(writer, key, value)
    for name, array in tensors.items():
        # as the files of llama.cpp: only the matrices of layers, and the words, are quantised
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


def write_tiny_encoder(folder: Path, **overrides: Any) -> Bundle:
    """Write a tiny bert and its fp32 bundle `folder`; returns its description. No tokenizer."""
    tensors = random_bert(**overrides)
    folder.mkdir(parents=True)
    source = write_bert_gguf(folder / "source.gguf", tensors, heads=4)
    positions, hidden = tensors["position_embd.weight"].shape
    vocabulary = len(tensors["token_embd.weight"])
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blk."))
    intermediate = len(tensors["blk.0.ffn_up.weight"])
    config = bert.Config(layers, positions, hidden, intermediate, 4, 1e-12, vocabulary, "mean")
    with GGUFSource(source) as gguf:
        weights = WeightsFile()
        graph = Graph(weights, ENCODER_OPSET)
        bert.build(graph, Full(graph, gguf, lambda size: None), config)
        weights.write(folder)
        (folder / MODEL).write_bytes(graph.serialized("tests"))
    source.unlink()
    bundle = Bundle(
        *("bert", 0, layers, 0, 0, hidden, vocabulary, positions, None, (), False, "fp32", ""),
        kind="encoder",
        embedding_length=hidden,
        pooling="mean",
    )
    write_description(folder, bundle)
    return bundle
