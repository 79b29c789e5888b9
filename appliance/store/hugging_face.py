"""A Hugging Face folder without its weights' bytes: configuration, chat template, pooling, tensors, in GGUF's words.

`files` maps the names of a folder's files, relative and with slashes, to where their bytes are: in a folder, or in
blobs of the store.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from appliance.errors import ModelFileError, UnsupportedModel
from appliance.store.gguf_header import TensorInfo
from appliance.store.safetensors_header import StoredTensor, read_safetensors

Files = Mapping[str, Path]

CONFIG = "config.json"
GENAI_CONFIG = "genai_config.json"
INDEX = "model.safetensors.index.json"
MODULES = "modules.json"
TEMPLATE = "chat_template.jinja"
COMPANIONS = ("*.json", "*/*.json", TEMPLATE, "tokenizer.model", "sentencepiece.bpe.model", "vocab.txt")
"""Patterns of the files that belong to a model beside its weights."""
MODEL_WEIGHTS = ("model*.safetensors", "*/model*.safetensors")
MAX_JSON_BYTES = 128 << 20  # a tokenizer.json of 260,000 tokens has 35 MB
POOLING = {"pooling_mode_mean_tokens": 1, "pooling_mode_cls_token": 2, "pooling_mode_lasttoken": 3}
"""GGUF's numbers of pooling types, by sentence-transformers' names."""
RANK = 4
"""GGUF's pooling type of a model that gives a score instead of a vector."""
ARCHITECTURES = {
    "llama": "llama", "mistral": "llama", "smollm3": "smollm3", "qwen2": "qwen2", "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe", "gemma2": "gemma2", "gemma3": "gemma3", "gemma3_text": "gemma3", "phi3": "phi3",
    "gemma": "gemma", "granite": "granite", "granitemoe": "granitemoe", "granitemoeshared": "granitemoe",
    "bert": "bert", "xlm-roberta": "bert", "nomic_bert": "nomic-bert", "modernbert": "modern-bert",
}  # fmt: skip
"""GGUF's name of an architecture, by model_type."""
DIMENSIONS: Mapping[str, Sequence[str]] = {
    "block_count": ("num_hidden_layers", "n_layer"),
    "context_length": ("max_position_embeddings", "n_positions"),
    "embedding_length": ("hidden_size", "n_embd"),
    "feed_forward_length": ("intermediate_size", "n_inner"),
    "attention.head_count": ("num_attention_heads", "n_head"),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "vocab_size": ("vocab_size",),
}
"""What is shown of a configuration, by GGUF's key without the architecture's name."""
WEIGHTS = {"F32": (0, 0), "F16": (1, 1), "F64": (28, 0), "BF16": (30, 32)}
"""GGUF's numbers of a dtype as a tensor's type and as a file's type."""
GENAI_NAMES = {"type": "model_type", "context_length": "max_position_embeddings", "head_size": "head_dim"}
GENAI_KEYS = (
    *GENAI_NAMES, "filename", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "bos_token_id", "eos_token_id",
)  # fmt: skip
"""What genai_config.json says of a model, and what config.json calls it where that is something else."""
PASSED_OVER = ("Transformer", "Normalize")  # modules: the network itself, and what is done to vectors on request


@dataclass(frozen=True, slots=True)
class FolderHeader:
    """What a folder says of its model. Tensors have the names of the checkpoint; offsets are each in its own file."""

    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]


def read_folder(files: Files) -> FolderHeader:
    """Read the headers of a folder; raises ModelFileError where a file is missing or damaged.

    This is what is shown and estimated. Whether a model can be computed is for the converters to say.
    """
    config = read_object(files, CONFIG)
    stored = [tensor for file in weight_files(files).values() for tensor in read_safetensors(file)]
    tensors = tuple(_info(tensor) for tensor in stored if tensor.dtype in WEIGHTS)
    metadata: dict[str, Any] = _dimensions(config)
    architecture = metadata["general.architecture"]
    if tensors:
        sizes: Counter[str] = Counter()
        for tensor in tensors:
            sizes[tensor.type_name] += tensor.size
        metadata["general.file_type"] = WEIGHTS[sizes.most_common(1)[0][0]][1]
    if (pooling := pooling_type(files, config)) is not None:
        metadata[f"{architecture}.pooling_type"] = pooling
    if template := chat_template(files):
        metadata["tokenizer.chat_template"] = template
    return FolderHeader(metadata, tensors)


def read_onnx_folder(files: Files) -> FolderHeader:
    """The same of a folder with ONNX graphs. Their tensors are not looked at: a file counts as a vector of its size."""
    metadata = _dimensions(onnx_config(files))
    if template := chat_template(files):
        metadata["tokenizer.chat_template"] = template
    sizes = {name: path.stat().st_size for name, path in files.items() if not name.endswith((".json", ".jinja"))}
    return FolderHeader(
        metadata, tuple(_info(StoredTensor(name, "F32", (size // 4,), 0, size)) for name, size in sizes.items())
    )


def onnx_config(files: Files) -> dict[str, Any]:
    """config.json of a folder with ONNX graphs, under what genai_config.json says in its own words, if it is there.

    `filename` is then the graph's name. Raises ModelFileError where neither file can be read.
    """
    if GENAI_CONFIG not in files:
        return read_object(files, CONFIG)
    config = read_object(files, CONFIG) if CONFIG in files else {}
    model = read_object(files, GENAI_CONFIG).get("model")
    if not isinstance(model, dict) or not isinstance(decoder := model.get("decoder"), dict):
        raise ModelFileError(f"{GENAI_CONFIG} is damaged: it has no model.decoder")
    said = {**decoder, **model}
    return config | {GENAI_NAMES.get(key, key): value for key, value in said.items() if key in GENAI_KEYS}


def _dimensions(config: Mapping[str, Any]) -> dict[str, Any]:
    model_type = config.get("model_type")
    architecture = ARCHITECTURES.get(str(model_type), str(model_type or ""))
    inner = config.get("text_config")
    config = {**config, **inner} if isinstance(inner, dict) else config
    metadata: dict[str, Any] = {"general.architecture": architecture}
    for key, names in DIMENSIONS.items():
        value = next((config[name] for name in names if type(config.get(name)) is int), None)
        if value is not None:
            metadata[f"{architecture}.{key}"] = value
    return metadata


def _info(tensor: StoredTensor) -> TensorInfo:
    return TensorInfo(tensor.name, tensor.shape, WEIGHTS[tensor.dtype][0], tensor.dtype, tensor.offset, tensor.size)


def folder_files(folder: Path) -> dict[str, Path]:
    """The files of a folder and of the folders in it, by relative name; not hidden ones."""
    found = {path.relative_to(folder): path for pattern in ("*", "*/*") for path in sorted(folder.glob(pattern))}
    shown = {name: path for name, path in found.items() if not any(part.startswith(".") for part in name.parts)}
    return {name.as_posix(): path for name, path in shown.items() if path.is_file()}


def read_json(files: Files, name: str) -> Any:
    """The value in a JSON file; raises ModelFileError when it is missing, damaged or too large."""
    if name not in files:
        raise ModelFileError(f"the model has no {name}")
    if (size := files[name].stat().st_size) > MAX_JSON_BYTES:
        raise ModelFileError(f"{name} has {size:,} bytes, at most {MAX_JSON_BYTES:,} are read")
    try:
        return json.loads(files[name].read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{name} is damaged: {str(error)[:80]}") from error


def read_object(files: Files, name: str) -> dict[str, Any]:
    """The JSON object in a file; raises ModelFileError as `read_json` does, and for any other value."""
    value = read_json(files, name)
    if not isinstance(value, dict):
        raise ModelFileError(f"{name} is damaged: not an object")
    return value


def weight_files(files: Files) -> dict[str, Path]:
    """The safetensors files that hold the weights, all of them: those that the index names, or the only one.

    Raises ModelFileError when one is missing.
    """
    if INDEX in files:
        index = read_object(files, INDEX).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
            raise ModelFileError(f"{INDEX} is damaged: weight_map is no object of file names")
        names = sorted(set(index.values()))
    else:
        names = [name for name in files if name.endswith(".safetensors")]
        if len(names) != 1:
            raise ModelFileError(f"the model has {len(names)} safetensors files and no {INDEX}")
    if missing := [name for name in names if name not in files]:
        raise ModelFileError(f"{missing[0][:80]!r}, which {INDEX} names, is missing")
    return {name: files[name] for name in names}


def chat_template(files: Files) -> str:
    """The Jinja template for conversations, "" if there is none. Of several named ones it is that called default."""
    if TEMPLATE in files:
        return files[TEMPLATE].read_text(encoding="utf-8", errors="replace")
    if "tokenizer_config.json" not in files:
        return ""
    template = read_object(files, "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else ""


def pooling_type(files: Files, config: Mapping[str, Any]) -> int | None:
    """How rows become a vector, as GGUF numbers it; None where the folder does not say.

    Raises UnsupportedModel for modules of sentence-transformers that compute anything else.
    """
    if any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ()):
        return RANK
    if MODULES not in files:
        return None
    modules = read_json(files, MODULES)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelFileError(f"{MODULES} is damaged: not an array of objects")
    found = None
    for module in modules:
        kind = str(module.get("type")).rpartition(".")[2]
        if kind == "Pooling":
            found = _pooling(read_object(files, str(PurePosixPath(str(module.get("path")), CONFIG))))
        elif kind not in PASSED_OVER:
            raise UnsupportedModel(f"the module {kind[:40]!r} of sentence-transformers", ("Pooling", *PASSED_OVER))
    return found


def _pooling(config: Mapping[str, Any]) -> int:
    chosen = [name for name, value in config.items() if name.startswith("pooling_mode_") and value]
    if len(chosen) != 1 or chosen[0] not in POOLING:
        raise UnsupportedModel(f"pooling by {', '.join(chosen)[:80] or 'nothing'}", tuple(POOLING))
    return POOLING[chosen[0]]
