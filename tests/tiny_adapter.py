"""A random LoRA for the tiny model, as PEFT saves it and in GGUF."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from safetensors.numpy import save_file

R, ALPHA = 4, 8.0
HIDDEN, KEYS = 64, 32


def write_peft(folder: Path, seed: int = 0) -> Path:
    """Write a folder of PEFT's, for the values and the queries of the first layer, and return its path."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    config = {"peft_type": "LORA", "r": R, "lora_alpha": ALPHA, "bias": "none", "target_modules": ["q_proj", "v_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = {}
    for module, rows in (("q_proj", HIDDEN), ("v_proj", KEYS)):
        name = f"base_model.model.model.layers.0.self_attn.{module}"
        tensors[f"{name}.lora_A.weight"] = rng.standard_normal((R, HIDDEN)).astype(np.float32)
        tensors[f"{name}.lora_B.weight"] = rng.standard_normal((rows, R)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def write_gguf_adapter(path: Path, seed: int = 0, architecture: str = "llama") -> Path:
    """Write a GGUF adapter for the values of the first layer, and return its path."""
    rng = np.random.default_rng(seed)
    writer = GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    writer.add_tensor("blk.0.attn_v.weight.lora_a", rng.standard_normal((R, HIDDEN)).astype(np.float32))
    writer.add_tensor("blk.0.attn_v.weight.lora_b", rng.standard_normal((KEYS, R)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
