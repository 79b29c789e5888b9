"""The facts of models' headers, kept by digest: parsing a header for every listing would be slow."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, replace
from typing import Any

from appliance.store.blobs import Blobs
from appliance.store.footprint import Footprint, footprint
from appliance.store.gguf_header import ModelHeader, read_header
from appliance.store.hugging_face import read_folder, read_onnx_folder
from appliance.store.parts import Parts
from appliance.store.split_gguf import read_split

LORA_A = ".lora_a"  # behind a matrix's name, in a GGUF adapter
# llama.cpp, enum llama_ftype
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
    19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL",
    26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0",
    37: "TQ2_0", 38: "MXFP4", 39: "NVFP4",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """A header without its long parts. `metadata` holds every key; the value of an array is None.

    `parameters` counts weights, `file_type` is llama.cpp's name or "unknown".
    """

    metadata: dict[str, Any]
    architecture: str
    parameters: int
    file_type: str
    context_length: int
    embedding_length: int
    footprint: Footprint


def facts_of(header: ModelHeader) -> HeaderFacts:
    """Boil a header down."""
    metadata = {key: None if isinstance(value, list) else value for key, value in header.metadata.items()}
    architecture = metadata.get("general.architecture")
    architecture = architecture if isinstance(architecture, str) else ""
    file_type = metadata.get("general.file_type")
    return HeaderFacts(
        metadata,
        architecture,
        parameter_count(header),
        FILE_TYPES.get(file_type, "unknown") if isinstance(file_type, int) else "unknown",
        _count(metadata.get(f"{architecture}.context_length")),
        _count(metadata.get(f"{architecture}.embedding_length")),
        footprint(header),
    )


def parameter_count(header: ModelHeader) -> int:
    """The number of weights: as declared, else counted."""
    declared = _count(header.metadata.get("general.parameter_count"))
    return declared or sum(math.prod(tensor.shape) for tensor in header.tensors)


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def header_of(parts: Parts, blobs: Blobs) -> ModelHeader:
    """The header of a network; raises BlobNotFound, and ModelFileError for files that cannot be used."""
    files = parts.files(blobs)
    if parts.format == "safetensors":
        return read_folder(files)
    if parts.format == "onnx":
        return read_onnx_folder(files)
    if parts.single:
        return read_header(blobs.existing(parts.base_digest))
    return read_split(files.values())


class HeaderCache:
    """Facts by digest; a blob never changes under its digest. May be used from any thread."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._facts: dict[str, HeaderFacts] = {}
        self._lock = threading.Lock()

    def facts(self, parts: Parts) -> HeaderFacts:
        """The facts of a network; raises what `header_of` does."""
        parts.files(self._blobs)  # what is gone is not known any more
        with self._lock:
            known = self._facts.get(parts.digest)
        if known is None:
            header = header_of(parts, self._blobs)
            known = facts_of(header)
            if adapter := parts.adapter_file(self._blobs):
                merged = {tensor.name.removesuffix(LORA_A) for tensor in read_header(adapter).tensors}
                known = replace(known, footprint=footprint(header, merged))
            with self._lock:
                self._facts[parts.digest] = known
        return known

    def forget(self, digest: str) -> None:
        """Drop what is known of a network that was removed."""
        with self._lock:
            self._facts.pop(digest, None)
