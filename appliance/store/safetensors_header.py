"""The header of a safetensors file: which tensors it holds and where, without touching them.

Layout after the format's description in the safetensors project's README:

    length u64, little-endian | JSON {name: {"dtype", "shape", "data_offsets": [begin, end]}} | data

Offsets count from the start of the data. A file comes from anyone, so the header is bounded, every tensor is held
against the file's size and its own shape, and tensors may neither overlap nor leave gaps.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from appliance.errors import NotSafetensors

MAX_HEADER_BYTES = 100 << 20  # the limit of the safetensors library
MAX_TENSORS = 1 << 20
MAX_DIMENSIONS = 8
MAX_LENGTH = 1 << 48  # of a dimension, so that no product of them grows without bounds
METADATA = "__metadata__"
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "BF16": 2, "F16": 2, "F32": 4, "F64": 8,
}  # fmt: skip
"""Bytes of one value."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a safetensors file: `shape` with rows first, `offset` from the start of the file, `size` in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


def read_safetensors(path: Path) -> tuple[StoredTensor, ...]:
    """The tensors of the file at `path`, in the order of their bytes; raises NotSafetensors, OSError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise NotSafetensors(f"not a safetensors file: it has {size} bytes")
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_HEADER_BYTES:
            raise NotSafetensors(f"not a safetensors file: a header of {length:,} bytes, at most {MAX_HEADER_BYTES:,}")
        if 8 + length > size:
            raise NotSafetensors(f"the file is cut short: the header needs {8 + length:,} bytes, the file has {size:,}")
        raw = file.read(length)
    try:
        entries = json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise NotSafetensors(f"a damaged safetensors file: its header is not JSON: {str(error)[:80]}") from error
    if not isinstance(entries, dict) or len(entries) > MAX_TENSORS:
        raise NotSafetensors(f"a damaged safetensors file: its header is no object of at most {MAX_TENSORS:,} tensors")
    start = 8 + length
    tensors = [_tensor(name, entry, start) for name, entry in entries.items() if name != METADATA]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.size))
    _check_places(tensors, start, size)
    return tuple(tensors)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def _tensor(name: str, entry: Any, start: int) -> StoredTensor:
    label = f"tensor {name[:80]!r}"
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise NotSafetensors(f"a damaged safetensors file: {label} lacks dtype, shape or data_offsets") from error
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        known = ", ".join(DTYPE_BYTES)
        raise NotSafetensors(f"{label} has the unknown dtype {str(dtype)[:20]!r}; known: {known}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_is_length, shape)):
        raise NotSafetensors(f"a damaged safetensors file: {label} has shape {str(shape)[:80]}")
    if not _is_length(begin) or not _is_length(end):
        raise NotSafetensors(f"a damaged safetensors file: {label} lies at {str([begin, end])[:80]}")
    size = prod(shape) * DTYPE_BYTES[dtype]
    if end - begin != size:
        raise NotSafetensors(
            f"a damaged safetensors file: {label} of shape {shape} in {dtype} needs {size:,} bytes, not {end - begin:,}"
        )
    return StoredTensor(name, dtype, tuple(shape), start + begin, size)


def _is_length(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_LENGTH


def _check_places(tensors: list[StoredTensor], start: int, file_size: int) -> None:
    """Raise unless the tensors fill the rest of the file, one after the other."""
    end = start
    for tensor in tensors:
        if tensor.offset != end:
            how = "overlaps the one before it" if tensor.offset < end else "leaves a gap before it"
            raise NotSafetensors(f"a damaged safetensors file: tensor {tensor.name[:80]!r} {how}")
        end += tensor.size
        if end > file_size:
            raise NotSafetensors(
                f"the file is cut short: tensor {tensor.name[:80]!r} needs {end:,} bytes, the file has {file_size:,}"
            )
    if end != file_size:
        raise NotSafetensors(f"a damaged safetensors file: {file_size - end:,} bytes after the last tensor")
