"""Weight formats of a bundle, and how each block format of GGUF becomes one of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Format:
    """A layout of MatMulNBits: symmetric, `bits` per value, one scale for every `block` values of a row."""

    bits: int
    block: int


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows of a matrix [N, K] in a Format: data [N, blocks, bytes of a block] uint8, scales [N, blocks] float32."""

    data: Bytes
    scales: Floats


INT8 = Format(8, 32)
INT4 = Format(4, 32)
FORMATS = {"Q4_0": INT4}


def format_for(type_names: set[str]) -> Format:
    """The format that loses nothing that matters of any of the types; fused tensors share one."""
    formats = {FORMATS.get(name, INT8) for name in type_names}
    return formats.pop() if len(formats) == 1 else INT8


def own_scales(raw: Bytes, type_name: str) -> Floats | None:
    """The scales [N, blocks of 32] of types whose values are whole multiples of them, else None."""
    size = {"Q4_0": 18, "Q5_0": 22, "Q8_0": 34}.get(type_name)
    if size is None:
        return None
    return raw.reshape(raw.shape[0], -1, size)[:, :, :2].copy().view(np.float16)[:, :, 0].astype(np.float32)


def pack(raw: Bytes, values: Floats, type_name: str, form: Format) -> Packed:
    """Quantise rows [N, K]; `raw` are the blocks they came from. A short last block is filled with zeros."""
    rows, columns = values.shape
    blocks = -(-columns // form.block)
    padded = np.pad(values, ((0, 0), (0, blocks * form.block - columns)))
    grouped = padded.reshape(rows, blocks, form.block)
    scales = own_scales(raw, type_name) if form.block == 32 else None
    top = 2 ** (form.bits - 1)
    if scales is None:
        scales = np.abs(grouped).max(axis=2) / np.float32(top - 1)
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    levels = np.rint(grouped * inverse[:, :, None]).clip(-top, top - 1) + top
    data = levels.astype(np.uint8)
    if form.bits == 4:
        data = data[:, :, ::2] | data[:, :, 1::2] << 4
    return Packed(data, scales)


def unpack(packed: Packed, form: Format, columns: int) -> Floats:
    """The values [N, K] that packed rows stand for."""
    data = packed.data
    if form.bits == 4:
        data = np.stack((data & 15, data >> 4), axis=-1).reshape(*data.shape[:2], -1)
    values: Floats = (data.astype(np.float32) - 2 ** (form.bits - 1)) * packed.scales[:, :, None]
    return values.reshape(len(data), -1)[:, :columns]
