"""A llama model so small that it is made and converted in a fraction of a second: random weights, real format.

Its vocabulary is byte-level: ids 0 … 255 are single bytes in GPT-2's order, then a few merges, then three control
tokens. Every text can be encoded, and decoding gives the text back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants

from appliance.bundle import Bundle
from converters.bundle import convert

MERGES = ("h e", "l l", "he ll", "hell o", "Ġ t", "Ġt he", "Ġ a", "i n")
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_tokens() -> list[str]:
    """GPT-2's printable stand-ins of the 256 bytes, in its order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    stand_ins = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [stand_ins[byte] for byte in printable + others]


def tiny_tokens() -> list[str]:
    """The whole vocabulary; a token's id is its place."""
    return [*byte_tokens(), *(merge.replace(" ", "") for merge in MERGES), *CONTROL]


def write_tiny_gguf(
    path: Path,
    *,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    intermediate: int = 96,
    context_length: int = 512,
    tied: bool = False,
    tensor_type: str = "F32",
    seed: int = 0,
    metadata: Mapping[str, Any] = {},
    tensors: Mapping[str, np.ndarray | None] = {},
    split_tensors: int = 0,
) -> Path:
    """Write a GGUF file of random weights and return its path.

    `tensor_type` is that of all matrices. `metadata` adds keys or, with None, leaves them out; so does `tensors`
    with float32 arrays [out, in]. With `split_tensors` there are several files of so many tensors each, and the path is
    that of the first.
    """
    keys = tiny_keys(layers, hidden, heads, kv_heads, intermediate, context_length) | dict(metadata)
    shapes = tiny_shapes(layers, hidden, heads, kv_heads, intermediate, len(tiny_tokens()), tied)
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray | None] = {
        name: (1.5 * rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        if len(shape) == 2
        else rng.uniform(0.5, 1.5, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    writer = GGUFWriter(path, "llama", split_max_tensors=split_tensors)
    for key, value in keys.items():
        add_key(writer, key, value)
    for name, array in {**arrays, **tensors}.items():
        if array is not None:
            add_tensor(writer, name, array, tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return next(path.parent.glob(f"{path.stem}-00001-of-*.gguf")) if split_tensors else path


def tiny_keys(
    layers: int, hidden: int, heads: int, kv_heads: int, intermediate: int, context_length: int
) -> dict[str, Any]:
    """The metadata of a llama model with the tiny vocabulary."""
    tokens = tiny_tokens()
    first_control = len(tokens) - len(CONTROL)
    return {
        "general.name": "tiny",
        "llama.block_count": layers,
        "llama.context_length": context_length,
        "llama.embedding_length": hidden,
        "llama.feed_forward_length": intermediate,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": hidden // heads,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * first_control + [3] * len(CONTROL),
        "tokenizer.ggml.merges": list(MERGES),
        "tokenizer.ggml.bos_token_id": first_control,
        "tokenizer.ggml.eos_token_id": first_control + 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def tiny_shapes(
    layers: int, hidden: int, heads: int, kv_heads: int, intermediate: int, vocab: int, tied: bool
) -> dict[str, tuple[int, ...]]:
    """The tensors of a llama model, [out, in]."""
    keys = hidden // heads * kv_heads
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocab, hidden), "output_norm.weight": (hidden,)}
    if not tied:
        shapes["output.weight"] = (vocab, hidden)
    for index in range(layers):
        shapes |= {
            f"blk.{index}.attn_norm.weight": (hidden,),
            f"blk.{index}.attn_q.weight": (hidden, hidden),
            f"blk.{index}.attn_k.weight": (keys, hidden),
            f"blk.{index}.attn_v.weight": (keys, hidden),
            f"blk.{index}.attn_output.weight": (hidden, hidden),
            f"blk.{index}.ffn_norm.weight": (hidden,),
            f"blk.{index}.ffn_gate.weight": (intermediate, hidden),
            f"blk.{index}.ffn_up.weight": (intermediate, hidden),
            f"blk.{index}.ffn_down.weight": (hidden, intermediate),
        }
    return shapes


def add_key(writer: GGUFWriter, key: str, value: Any) -> None:
    """Add one metadata value by its Python type; None adds nothing."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)


def add_tensor(writer: GGUFWriter, name: str, array: np.ndarray, tensor_type: str) -> None:
    """Add one tensor, matrices in the block format `tensor_type`."""
    kind = GGMLQuantizationType[tensor_type if array.ndim > 1 else "F32"]
    if kind == GGMLQuantizationType.F32:
        writer.add_tensor(name, array)
    else:
        writer.add_tensor(name, quants.quantize(array, kind), raw_dtype=kind)


def write_tiny_bundle(folder: Path, recipe: str = "fp32", **overrides: Any) -> Bundle:
    """Write a tiny model beside `folder` and convert it into `folder`; returns its description."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    source = folder.with_name(f"{folder.name}.gguf")
    write_tiny_gguf(source, **overrides)
    try:
        return convert(source, folder, recipe)
    finally:
        source.unlink()
