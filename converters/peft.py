"""A LoRA that the PEFT library saved, as an adapter file in GGUF.

A folder of PEFT's has adapter_config.json and adapter_model.safetensors with `base_model.model.<module>.lora_A.weight`
[r, in] and `….lora_B.weight` [out, r]. Whatever in the configuration changes the result and cannot be said by one scale
is refused by name; so are weights that are no LoRA (whole modules, embeddings, DoRA's magnitudes).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, get_tensor_name_map
from numpy.typing import NDArray

from appliance.errors import ModelFileError, UnsupportedModel
from appliance.store.hugging_face import Files, folder_files, read_object
from appliance.store.parts import combined
from appliance.store.safetensors_header import StoredTensor, read_safetensors
from converters.adapters import A, Adapted, Adapter, B, GGUFAdapter, neighbours, rotated_heads
from converters.gguf_source import path_digest
from converters.safetensors_source import as_float32
from converters.source import Source, open_source

Floats = NDArray[np.float32]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
READ = ("peft_type", "r", "lora_alpha", "use_rslora", "init_lora_weights", "base_model_name_or_path")
# What only says how the adapter was trained, or for which modules, which its tensors say too.
WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping", "inference_mode", "lora_dropout", "peft_version", "revision", "target_modules", "task_type",
        "layers_to_transform", "layers_pattern", "exclude_modules", "megatron_config", "megatron_core",
        "loftq_config", "eva_config", "ensure_weight_tying", "qalora_group_size",
    }
)  # fmt: skip
NEUTRAL: Mapping[str, Any] = {"bias": "none"}  # other keys have no effect when they are null, false or empty
KEEP_BASE = (True, False, "gaussian", "orthogonal", "eva")  # ways to begin that leave the base's weights alone


class PeftAdapter:
    """An adapter in the files of a folder of PEFT's. Threads may read it at once."""

    neighbours = False

    def __init__(self, files: Files, base: Mapping[str, Any]) -> None:
        """For a model with the metadata `base`.

        Raises ModelFileError for files that are missing or damaged, UnsupportedModel for what is no plain LoRA or has
        no place in the architecture.
        """
        config = read_object(files, CONFIG)
        self.alpha = _alpha(config)
        if WEIGHTS not in files:
            raise ModelFileError(f"the adapter has no {WEIGHTS}")
        self.architecture = str(base["general.architecture"])
        self._parts = _parts(read_safetensors(files[WEIGHTS]), base, config["r"])
        self.matrices = tuple(name.removesuffix(A) for name in self._parts if name.endswith(A))
        if {*self._parts} != {name + part for name in self.matrices for part in (A, B)}:
            raise ModelFileError("a damaged adapter: every matrix needs lora_A and lora_B")
        self._files = {name: files[name] for name in (CONFIG, WEIGHTS)}
        self._file = files[WEIGHTS].open("rb", buffering=0)

    def close(self) -> None:
        self._file.close()

    def digest(self) -> str:
        return combined({name: path_digest(path) for name, path in self._files.items()})

    def shape(self, matrix: str) -> tuple[int, int]:
        return self._parts[matrix + B].shape[0], self._parts[matrix + A].shape[1]

    def factors(self, matrix: str) -> tuple[Floats, Floats]:
        a, b = self.pair(matrix)
        return a, b * np.float32(self.alpha / len(a))

    def pair(self, matrix: str) -> tuple[Floats, Floats]:
        """A [r, in] and B [out, r] as they are stored."""
        return self._values(self._parts[matrix + A]), self._values(self._parts[matrix + B])

    def _values(self, tensor: StoredTensor) -> Floats:
        data = os.pread(self._file.fileno(), tensor.size, tensor.offset)
        if len(data) < tensor.size:
            raise ModelFileError(f"a damaged adapter: the file is cut short within {tensor.name[:100]}")
        raw = np.frombuffer(data, np.uint8).reshape(tensor.shape[0], -1)
        values = as_float32(raw, tensor.dtype)
        if not np.isfinite(values).all():
            raise ModelFileError(f"a damaged adapter: {tensor.name[:100]} holds values that are not finite")
        return values


def open_model(path: Path, adapter: Path | None) -> Source:
    """Open a model as `open_source` does, with an adapter merged into it: a GGUF file or a folder of PEFT's.

    Raises besides what GGUFAdapter, PeftAdapter and Adapted do.
    """
    base = open_source(path)
    if adapter is None:
        return base
    with ExitStack() as stack:
        stack.push(base.__exit__)
        folder = adapter.is_dir()
        opened: Adapter = PeftAdapter(folder_files(adapter), base.metadata) if folder else GGUFAdapter(adapter)
        stack.callback(opened.close)
        merged = Adapted(base, opened)
        stack.pop_all()
    return merged


def convert_adapter(folder: Path, base: Path, target: Path) -> None:
    """Make the new GGUF file `target` of a folder of PEFT's, once it fits the model `base`. Raises as `open_model`."""
    with open_source(base) as source:
        adapter = PeftAdapter(folder_files(folder), source.metadata)
        with Adapted(source, adapter):
            write_adapter(adapter, source.metadata, target)


def write_adapter(adapter: PeftAdapter, base: Mapping[str, Any], path: Path) -> None:
    """Write the adapter as the new GGUF file `path`, a matrix at a time."""
    writer = GGUFWriter(path, adapter.architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", adapter.alpha)
    for matrix in adapter.matrices:
        for part, values in zip((A, B), adapter.pair(matrix), strict=True):
            writer.add_tensor_info(matrix + part, values.shape, values.dtype, values.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for matrix in adapter.matrices:
        a, b = adapter.pair(matrix)
        writer.write_tensor_data(a)
        writer.write_tensor_data(np.ascontiguousarray(neighbours(b, rotated_heads(matrix, base))))
    writer.close()


def _alpha(config: Mapping[str, Any]) -> float:
    """What over r makes the scale, as GGUF has it."""
    if config.get("peft_type") != "LORA":
        raise UnsupportedModel(f"an adapter of PEFT's type {str(config.get('peft_type'))[:40]}", ("LORA",))
    for key, value in config.items():
        if key not in READ and key not in WITHOUT_EFFECT and value not in (NEUTRAL.get(key), None, False, [], {}, ""):
            raise UnsupportedModel(f"an adapter with {key[:60]} = {str(value)[:40]}", ("plain LoRA",))
    if (begin := config.get("init_lora_weights", True)) not in KEEP_BASE:
        raise UnsupportedModel(f"an adapter with init_lora_weights = {str(begin)[:40]}", tuple(map(str, KEEP_BASE)))
    r, alpha = config.get("r"), config.get("lora_alpha")
    if type(r) is not int or r < 1 or not isinstance(alpha, int | float):
        raise ModelFileError(f"{CONFIG} is damaged: r is {str(r)[:40]}, lora_alpha {str(alpha)[:40]}")
    return float(alpha) * math.sqrt(r) if config.get("use_rslora") else float(alpha)


def _parts(stored: tuple[StoredTensor, ...], base: Mapping[str, Any], rank: int) -> dict[str, StoredTensor]:
    """The tensors by their names in GGUF."""
    architecture = base["general.architecture"]
    number = next(number for number, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(MODEL_ARCH(number), base[f"{architecture}.block_count"])
    parts: dict[str, StoredTensor] = {}
    for tensor in stored:
        found = TENSOR.fullmatch(tensor.name)
        if not found:
            raise UnsupportedModel(f"an adapter's tensor {tensor.name[:100]!r}", ("*.lora_A.weight", "*.lora_B.weight"))
        module, part = found[1], found[2]
        name = next(filter(None, (names.get_name(known) for known in (module, f"model.{module}"))), None)
        if name is None:
            raise UnsupportedModel(f"an adapter for {module[:100]!r}", (f"the matrices of {architecture} models",))
        if len(tensor.shape) != 2 or tensor.shape[part == "B"] != rank:
            raise ModelFileError(f"a damaged adapter: {tensor.name[:100]} has shape {tensor.shape}, with r {rank}")
        if tensor.dtype not in ("F32", "F16", "BF16"):
            raise UnsupportedModel(f"dtype {tensor.dtype} of tensor {tensor.name[:100]}", ("F32", "F16", "BF16"))
        parts[f"{name}.weight{A if part == 'A' else B}"] = tensor
    return parts
