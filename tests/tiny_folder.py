"""The tiny llama model as a Hugging Face folder: config.json, safetensors in one file or several, tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from converters.tokenizers import read_vocabulary
from tests.tiny_model import CHAT_TEMPLATE, CONTROL, tiny_keys, tiny_shapes, tiny_tokens

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}
NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
HEADS, KV_HEADS = 4, 2


def tiny_config(layers: int = 2, hidden: int = 64, intermediate: int = 96, context_length: int = 512) -> dict[str, Any]:
    """The config.json of the model."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(tiny_tokens()),
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": context_length,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": len(tiny_tokens()) - len(CONTROL),
        "eos_token_id": len(tiny_tokens()) - 1,
        "torch_dtype": "float32",
    }


def tiny_weights(layers: int = 2, hidden: int = 64, intermediate: int = 96, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights by GGUF's names, matrices [out, in]; queries and keys in the order of checkpoints."""
    rng = np.random.default_rng(seed)
    shapes = tiny_shapes(layers, hidden, HEADS, KV_HEADS, intermediate, len(tiny_tokens()), tied=False)
    return {
        name: (1.5 * rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        if len(shape) == 2
        else rng.uniform(0.5, 1.5, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def checkpoint_name(name: str) -> str:
    """A tensor's name in the checkpoint, from GGUF's."""
    stem, _, suffix = name.rpartition(".")
    if not stem.startswith("blk."):
        return f"{OUTER[stem]}.{suffix}"
    _, index, part = stem.split(".")
    return f"model.layers.{index}.{NAMES[part]}.{suffix}"


def in_pairs(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights as GGUF arranges them: the two values of a rotary pair are neighbours."""

    def arranged(name: str, array: np.ndarray) -> np.ndarray:
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name.split(".")[-2])
        return array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape) if heads else array

    return {name: arranged(name, array) for name, array in weights.items()}


def write_tiny_folder(
    folder: Path,
    *,
    dtype: str = "F32",
    shards: int = 1,
    config: Mapping[str, Any] = {},
    tensors: Mapping[str, np.ndarray | None] = {},
    seed: int = 0,
) -> Path:
    """Write the folder and return its path.

    `config` and `tensors`, the latter by checkpoint names, add or replace, and with None leave out.
    """
    folder.mkdir(parents=True)
    settings = {key: value for key, value in {**tiny_config(), **config}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(settings))
    arrays: dict[str, np.ndarray | None] = {
        checkpoint_name(name): array.astype(DTYPES[dtype]) for name, array in tiny_weights(seed=seed).items()
    }
    write_shards(folder, {name: array for name, array in {**arrays, **tensors}.items() if array is not None}, shards)
    vocabulary = read_vocabulary(tiny_keys(1, 1, 1, 1, 1, 1))
    vocabulary.tokenizer.save(str(folder / "tokenizer.json"))
    texts = {"chat_template": CHAT_TEMPLATE, "bos_token": CONTROL[0], "eos_token": CONTROL[2], "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(texts))
    return folder


def write_shards(folder: Path, arrays: Mapping[str, np.ndarray], shards: int) -> None:
    """Write model.safetensors, or so many parts of it and their index."""
    if shards == 1:
        save_file(dict(arrays), folder / "model.safetensors")
        return
    index = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        names = sorted(arrays)[number::shards]
        save_file({name: arrays[name] for name in names}, folder / file)
        index |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
