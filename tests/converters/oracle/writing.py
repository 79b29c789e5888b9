"""A transformers model's weights as a GGUF file.

Names come from the `gguf` package's map. What else differs from a Hugging Face checkpoint, after llama.cpp's
conversion/*.py and src/models/*.cpp: Llama's and its descendants' query and key rows are in the order of rotary pairs,
Gemma's norms carry their 1, experts are stacked, and frequencies that a configuration describes are tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, get_tensor_name_map

from tests.tiny_model import add_key, add_tensor, tiny_keys

Array = np.ndarray
Weights = dict[str, Array]
INTERLEAVED = ("llama", "smollm3", "granite", "granitemoe")


def write_gguf(
    path: Path, architecture: str, config: dict[str, Any], weights: Weights, tensor_type: str, **more: Any
) -> Path:
    """Write the model with matrices of `tensor_type` and keys beyond what the configuration says; returns its path."""
    writer = GGUFWriter(path, architecture)
    for key, value in tokenizer_keys().items():
        add_key(writer, key, value)
    for key, value in (metadata(architecture, config) | more).items():
        add_key(writer, f"{architecture}.{key}", value)
    names = name_map(architecture, config["num_hidden_layers"])
    for name, array in arranged(architecture, config, weights):
        add_tensor(writer, names(name), np.ascontiguousarray(array), tensor_type)
    for name, array in rope_tensors(config).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tokenizer_keys() -> dict[str, Any]:
    return {key: value for key, value in tiny_keys(1, 1, 1, 1, 1, 1).items() if not key.startswith("llama.")}


def name_map(architecture: str, layers: int) -> Callable[[str], str]:
    """From a checkpoint's tensor names to GGUF's."""
    known = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}
    names = get_tensor_name_map(MODEL_ARCH(known[architecture]), layers)

    def renamed(name: str) -> str:
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new, f"GGUF has no name for {name}"
        return new

    return renamed


def metadata(architecture: str, config: dict[str, Any]) -> dict[str, Any]:
    """The keys of the architecture, without its name before them."""
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    rotated = int(head_dim * config.get("partial_rotary_factor", 1.0))
    keys: dict[str, Any] = {
        "vocab_size": config["vocab_size"],
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.freq_base": float(config["rope_theta"]),
        "rope.dimension_count": rotated,
    }
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        keys["attention.sliding_window"] = config["sliding_window"]
    return keys | scaling(config) | (EXTRA[architecture](config) if architecture in EXTRA else {})


def scaling(config: dict[str, Any]) -> dict[str, Any]:
    """Keys of a stretched rotary embedding; Llama 3's is a tensor alone."""
    kind, rope = rope_kind(config)
    if kind == "longrope":
        longest, original = config["max_position_embeddings"], config["original_max_position_embeddings"]
        return {
            "rope.scaling.type": "longrope",
            "rope.scaling.original_context_length": original,
            "rope.scaling.attn_factor": math.sqrt(1 + math.log(longest / original) / math.log(original)),
        }
    if kind == "yarn":
        return {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": rope["factor"],
            "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
        }
    return {"rope.scaling.type": "linear", "rope.scaling.factor": rope["factor"]} if kind == "linear" else {}


def rope_kind(config: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """How positions are stretched, under the name of any age, and by what."""
    rope = config.get("rope_scaling") or {}
    return rope.get("rope_type", rope.get("type")), rope


def soft_caps(config: dict[str, Any]) -> dict[str, Any]:
    return {key: config[key] for key in ("attn_logit_softcapping", "final_logit_softcapping") if config.get(key)}


def granite(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "rope.scaling.finetuned": config.get("position_embedding_type", "rope") == "rope",
        "attention.scale": config["attention_multiplier"],
        "embedding_scale": config["embedding_multiplier"],
        "residual_scale": config["residual_multiplier"],
        "logit_scale": config["logits_scaling"],
    }


def granite_moe(config: dict[str, Any]) -> dict[str, Any]:
    experts = {"expert_count": config["num_local_experts"], "expert_used_count": config["num_experts_per_tok"]}
    shared = config.get("shared_intermediate_size")
    return granite(config) | experts | ({"expert_shared_feed_forward_length": shared} if shared else {})


def qwen_3_moe(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "expert_count": config["num_experts"],
        "expert_used_count": config["num_experts_per_tok"],
        "expert_feed_forward_length": config["moe_intermediate_size"],
    }


EXTRA: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "gemma2": soft_caps,
    "gemma3": soft_caps,
    "granite": granite,
    "granitemoe": granite_moe,
    "qwen3moe": qwen_3_moe,
}


def arranged(architecture: str, config: dict[str, Any], weights: Weights) -> Iterator[tuple[str, Array]]:
    """The weights as GGUF has them, still under names that its map knows."""
    experts: dict[str, list[Array]] = {}
    for name, array in weights.items():
        part = name.rpartition(".")[0].rpartition(".")[2]
        if architecture in INTERLEAVED and part in ("q_proj", "k_proj"):
            heads = config["num_attention_heads" if part == "q_proj" else "num_key_value_heads"]
            yield name, in_pairs(array, heads)
        elif architecture.startswith("gemma") and name.endswith("norm.weight"):
            yield name, array + 1
        elif ".experts." in name:
            before, _, after = name.partition(".experts.")
            experts.setdefault(f"{before}.experts.{after.partition('.')[2]}", []).append(array)
        elif part == "input_linear":  # Granite's experts, and the one that all tokens use: gate over up
            before, _, kind = name.removesuffix(".input_linear.weight").rpartition(".")
            experts_or_one = {"block_sparse_moe": "mlp.experts", "shared_mlp": "mlp.shared_expert"}[kind]
            for half, values in zip(("gate_proj", "up_proj"), np.split(array, 2, axis=-2), strict=True):
                yield f"{before}.{experts_or_one}.{half}.weight", values
        else:
            yield name, array
    for name, arrays in experts.items():
        yield name, np.stack(arrays)


def in_pairs(array: Array, heads: int) -> Array:
    """Rows of each head (the first half, then the second) so that the two values of a rotary pair are neighbours."""
    halves = array.reshape(heads, 2, -1, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)


def rope_tensors(config: dict[str, Any]) -> dict[str, Array]:
    """By how much each frequency is divided, for Llama 3 and for Phi's long contexts."""
    kind, rope = rope_kind(config)
    if kind == "llama3":
        return {"rope_freqs.weight": llama_3_factors(config, rope)}
    if kind == "longrope":
        factors = {"long": rope["long_factor"], "short": rope["short_factor"]}
        return {f"rope_factors_{name}.weight": np.array(value, np.float32) for name, value in factors.items()}
    return {}


def llama_3_factors(config: dict[str, Any], rope: dict[str, Any]) -> Array:
    """1 for short waves, the whole factor for long ones, and in between what blends the two frequencies."""
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    waves = 2 * np.pi * config["rope_theta"] ** (np.arange(0, size, 2) / size)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    blend = np.clip((rope["original_max_position_embeddings"] / waves - low) / (high - low), 0, 1)
    return (1 / ((1 - blend) / rope["factor"] + blend)).astype(np.float32)
