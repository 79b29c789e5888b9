"""Llama in numpy, float64, one sequence, no cache: written from the paper, to hold the graph against."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, quants

Array = np.ndarray


def load(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Metadata and dequantised tensors of a GGUF file, by the reference library."""
    reader = GGUFReader(path)
    metadata = {name.removeprefix("llama."): field.contents() for name, field in reader.fields.items()}
    tensors = {
        tensor.name: quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64) for tensor in reader.tensors
    }
    return metadata, tensors


def logits(path: Path, ids: list[int], cached: Callable[[str, Array], Array] = lambda name, values: values) -> Array:
    """Logits [len(ids), vocabulary] of the model in the GGUF file.

    `cached` says what the KV cache makes of the values [kv_heads, tokens, head_dim] of "key.0", "value.0", "key.1" ….
    """
    keys, weights = load(path)
    heads, kv_heads = keys["attention.head_count"], keys["attention.head_count_kv"]
    head_dim = keys.get("attention.key_length", keys["embedding_length"] // heads)
    scale = keys.get("attention.scale", head_dim**-0.5)
    epsilon = keys["attention.layer_norm_rms_epsilon"]

    def linear(x: Array, name: str) -> Array:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)

    def norm(x: Array, name: str) -> Array:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weights[f"{name}.weight"]

    def split(x: Array, count: int) -> Array:
        return x.reshape(len(x), count, head_dim).swapaxes(0, 1)

    turn = rotation(keys, weights, head_dim, len(ids))
    x = weights["token_embd.weight"][ids]
    future = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
    for index in range(keys["block_count"]):
        layer = f"blk.{index}"
        normed = norm(x, f"{layer}.attn_norm")
        q = rotate(split(linear(normed, f"{layer}.attn_q"), heads), turn)
        k = rotate(split(linear(normed, f"{layer}.attn_k"), kv_heads), turn)
        v = split(linear(normed, f"{layer}.attn_v"), kv_heads)
        k, v = cached(f"key.{index}", k), cached(f"value.{index}", v)
        k, v = (np.repeat(array, heads // kv_heads, axis=0) for array in (k, v))
        scores = np.exp(q @ k.swapaxes(1, 2) * scale + future)
        mixed = (scores / scores.sum(-1, keepdims=True)) @ v
        x = x + linear(mixed.swapaxes(0, 1).reshape(len(ids), -1), f"{layer}.attn_output")
        normed = norm(x, f"{layer}.ffn_norm")
        gate = linear(normed, f"{layer}.ffn_gate")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(normed, f"{layer}.ffn_up"), f"{layer}.ffn_down")
    return linear(norm(x, "output_norm"), "output" if "output.weight" in weights else "token_embd")


def rotation(keys: dict[str, Any], weights: dict[str, Array], head_dim: int, length: int) -> Array:
    """Unit complex numbers [length, head_dim/2] that turn each pair of a head's values."""
    pairs = np.arange(0, head_dim, 2)
    frequencies = 1.0 / keys.get("rope.freq_base", 10000.0) ** (pairs / head_dim)
    frequencies = frequencies / weights.get("rope_freqs.weight", 1.0) / keys.get("rope.scaling.factor", 1.0)
    return np.exp(1j * np.outer(np.arange(length), frequencies))


def rotate(x: Array, turn: Array) -> Array:
    """Turn neighbouring values of x [heads, length, head_dim] as complex numbers."""
    turned = (x[..., ::2] + 1j * x[..., 1::2]) * turn
    return np.stack((turned.real, turned.imag), axis=-1).reshape(x.shape)
