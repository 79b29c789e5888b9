"""The header of a GGUF file: metadata and where each tensor lies, without touching the tensors.

Layout after docs/gguf.md of ggml, versions 2 and 3, little-endian:

    magic "GGUF" | version u32 | tensors u64 | keys u64 | keys × (name, type u32, value)
    | tensors × (name, dims u32, dims × u64, type u32, offset u64) | padding | data

A file comes from anyone, so every length is held against the file's size before anything is read or
allocated, and the header as a whole is bounded.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

from appliance.errors import NotGGUF, TruncatedGGUF

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER_BYTES = 128 << 20  # ten times that of the largest vocabularies in use
MAX_VALUES = 1 << 24  # a Python object each
MAX_NESTING = 4
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32

# ggml type number: (name, values in a block, bytes of a block)
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}

STRING, ARRAY = 8, 9
SCALARS: dict[int, struct.Struct] = {
    number: struct.Struct("<" + code)
    for number, code in {
        0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
    }.items()
}  # fmt: skip
_U32 = SCALARS[4]
_U64 = SCALARS[10]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor: `shape` in numpy order (rows first), `offset` from the start of the file, `size` in bytes.

    A type number that ggml did not have when this was written is called "type N" and has size 0.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    type_name: str
    offset: int
    size: int


class ModelHeader(Protocol):
    """What is known of a model without reading its tensors, whatever kind of files it is kept in."""

    @property
    def metadata(self) -> dict[str, Any]:
        """GGUF's keys and their values."""
        ...

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Under the names that the files give them."""
        ...


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """What a GGUF file says about itself. Arrays are lists; `data_offset` is where tensor data begins."""

    version: int
    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    file_size: int


def read_header(path: Path) -> GGUFHeader:
    """Read the header of the file at `path`.

    Raises NotGGUF for anything that is not a little-endian GGUF of version 2 or 3 or contradicts itself,
    TruncatedGGUF for one that ends before the data it announces, OSError if it cannot be read.
    Text that is not UTF-8 is taken with replacement characters, as some real files cut a description.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        if file.read(4) != MAGIC:
            raise NotGGUF("not a GGUF file: it does not start with GGUF")
        if size < 24:
            raise TruncatedGGUF("the header", 24, size)
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
            return _Reader(data, size).header()


class _Reader:
    """A cursor over the header. `what` names the field being read, for errors."""

    def __init__(self, data: mmap.mmap, size: int) -> None:
        self.data = data
        self.size = size
        self.at = 4
        self.values_left = MAX_VALUES
        self.what = "the header"

    def header(self) -> GGUFHeader:
        version = self.scalar(_U32)
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            reason = "it is big-endian" if swapped in VERSIONS else f"version {version}"
            raise NotGGUF(f"a GGUF file that cannot be read: {reason}; supported: little-endian, version 2 and 3")
        tensor_count, key_count = self.scalar(_U64), self.scalar(_U64)
        self.need(key_count * 13 + tensor_count * 24)  # the least that so many entries can take
        metadata = self.metadata(key_count)
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
            raise NotGGUF(f"a damaged GGUF file: general.alignment is {str(alignment)[:40]}")
        entries = self.tensor_entries(tensor_count)
        data_offset = -(-self.at // alignment) * alignment
        tensors = tuple(_locate(entry, data_offset, alignment, self.size) for entry in entries)
        return GGUFHeader(version, metadata, tensors, data_offset, self.size)

    def metadata(self, count: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for index in range(count):
            self.what = f"metadata key {index}"
            key = self.string()
            self.what = f"metadata {key[:80]!r}"
            if key in metadata:
                raise NotGGUF(f"a damaged GGUF file: {self.what} is given twice")
            metadata[key] = self.value(self.scalar(_U32))
        return metadata

    def tensor_entries(self, count: int) -> list[tuple[str, tuple[int, ...], int, int]]:
        entries = []
        seen = set()
        for index in range(count):
            self.what = f"the entry of tensor {index}"
            name = self.string()
            self.what = f"the entry of tensor {name[:80]!r}"
            if name in seen:
                raise NotGGUF(f"a damaged GGUF file: {self.what} is given twice")
            seen.add(name)
            dimensions = self.scalar(_U32)
            if dimensions > MAX_DIMENSIONS:
                raise NotGGUF(f"a damaged GGUF file: {self.what} has {dimensions} dimensions")
            shape = tuple(self.scalar(_U64) for _ in range(dimensions))[::-1]
            entries.append((name, shape, self.scalar(_U32), self.scalar(_U64)))
        return entries

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array(depth)
        if kind not in SCALARS:
            raise NotGGUF(f"a damaged GGUF file: {self.what} has the unknown type {kind}")
        return self.scalar(SCALARS[kind])

    def array(self, depth: int) -> list[Any]:
        if depth == MAX_NESTING:
            raise NotGGUF(f"a damaged GGUF file: {self.what} nests arrays too deeply")
        kind, count = self.scalar(_U32), self.scalar(_U64)
        scalar = SCALARS.get(kind)
        self.need(count * (scalar.size if scalar else 12 if kind == ARRAY else 8))
        self.values_left -= count
        if self.values_left < 0:
            raise NotGGUF(f"a damaged GGUF file: more than {MAX_VALUES:,} metadata values at {self.what}")
        if scalar:
            start, self.at = self.at, self.at + count * scalar.size
            return list(struct.unpack_from(f"<{count}{scalar.format[-1]}", self.data, start))
        return [self.value(kind, depth + 1) for _ in range(count)]

    def scalar(self, form: struct.Struct) -> Any:
        start, end = self.at, self.at + form.size
        if end > self.size:
            self.need(form.size)
        self.at = end
        return form.unpack_from(self.data, start)[0]

    def string(self) -> str:
        length = self.scalar(_U64)
        self.need(length)
        start, self.at = self.at, self.at + length
        return self.data[start : self.at].decode("utf-8", "replace")

    def need(self, count: int) -> None:
        """Raise unless `count` more bytes are there and within bounds."""
        end = self.at + count
        if end > self.size:
            raise TruncatedGGUF(self.what, end, self.size)
        if end > MAX_HEADER_BYTES:
            raise NotGGUF(f"a damaged GGUF file: the header exceeds {MAX_HEADER_BYTES:,} bytes at {self.what}")


def _locate(
    entry: tuple[str, tuple[int, ...], int, int], data_offset: int, alignment: int, file_size: int
) -> TensorInfo:
    """Turn a header entry into a TensorInfo that is known to lie within the file."""
    name, shape, kind, offset = entry
    label = f"tensor {name[:80]!r}"
    if not all(shape):
        raise NotGGUF(f"a damaged GGUF file: {label} has shape {shape}")
    if offset % alignment:
        raise NotGGUF(f"a damaged GGUF file: {label} is not aligned to {alignment} bytes")
    type_name, block_values, block_bytes = TENSOR_TYPES.get(kind, (f"type {kind}", 1, 0))
    if (shape[-1] if shape else 1) % block_values:
        raise NotGGUF(f"a damaged GGUF file: {label} has rows of {shape[-1] if shape else 1} in {type_name} blocks")
    size = prod(shape) // block_values * block_bytes
    start = data_offset + offset
    if start + size > file_size:
        raise TruncatedGGUF(label, start + size, file_size)
    return TensorInfo(name, shape, kind, type_name, start, size)
