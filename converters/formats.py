"""Weight formats of a bundle, and which block format of GGUF becomes which.

    GGUF                     bundle                             loses
    Q4_0                     4 bits, blocks of 32               nothing
    Q8_0, Q5_0               8 bits, blocks of 32               nothing
      … Q5_0 with compact    8 bits, blocks of 64               1/16 of a step
      … from 2^26 weights,
      … but as an embedding  8 bits, blocks of 128              1/250 of a block's largest value
    Q4_1, Q4_K               4 bits, blocks of 32, with sums    1/400 of a step
      … below 3·2^18 weights
      … and as an embedding  8 bits, blocks of 64               1/20 of a step
    F32, F16, BF16, F64,
    Q5_1, Q5_K, Q6_K, and
    all of 1 to 4 bits that
    are no such grid         8 bits, blocks of 64               1/250 of a block's largest value

Fused matrices of several types take the finest of their formats. Rows that 64 does not divide use blocks of 32.

Why not 4 bits for all: rounding a 4-bit file to another 4-bit grid costs 0.17 to 0.30 nats a token. Why 4 bits
at all: decoding reads every weight once per token, so bytes are time and memory. Q4_1 and Q4_K are grids
`step · q + low` whose `low` MatMulNBits cannot express (its zero points are whole steps). What is left over,
`r = low + step · zero`, is the same for a whole block, so it needs only the sum of the block's inputs:

    Σ x·w  =  Σ x · step (q - zero)  +  Σ over blocks of r · (Σ of x over the block)

These sums are appended to x, and the `r` to the rows of the matrix, as columns like any other: two nodes before
MatMulNBits. They are stored twice over, at 4 bits each: rounded, then the rounding error rounded.

Measured on SmolLM2-135M Q4_1 (2,044 tokens of English against the same weights in fp32, two threads of a Zen 5,
the head stays Q8_0 exactly). Speeds are medians of one alternating run; those in brackets come from another, noisier
one and compare with nothing else in the column:

                                        NLL      top-1   prefill 256   decode   weights on disk
    8 bits, blocks of 32              +0.0048    95.4 %       (1,496)    (166)           153 MB
    8 bits, blocks of 64              +0.0040    94.9 %         1,523      168           147 MB
    8 bits, blocks of 128             +0.0095    93.8 %             –        –           153 MB
    4 bits with sums, all             +0.0017    96.5 %         1,106      166           109 MB
    … rounded only once               +0.0061    95.7 %             –        –           106 MB
    4 bits with sums from 2^20 on     +0.0024    94.9 %         1,368      174           128 MB

The recipe `compact` takes the row "with sums, all": 10 of 209 MB less once loaded, decoding as fast, prefill a sixth
slower. With Gemma 3 270M, most of whose matrices are Q5_0, their blocks of 64 are 8 MB less and decode 3 % faster; the
divergence is 0.0105 instead of 0.0092. Scales are float32 since MatMulNBits wants them in the type of its inputs, and
float16 inputs are slow on CPUs.

Sums begin at 3·2^18 weights, so that SmolLM2's down projections have them: a divergence of 0.0052 instead of 0.0066,
119 MB on disk and 9 MB less once loaded than from 2^20 on, decoding as fast, prefill 6 % slower (on a Zen 4 with VNNI).

In blocks of 128, a weight takes 8.5 bits once packed instead of 10. Heads of that size have a format of their own, see
recipes/shortlist.py.

The two nodes cost about 5 µs; halving the bytes of a matrix of 2^20 weights saves about as much at 80 GB/s.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from gguf import quants
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

SUM_BLOCK = 32
SUMS_FROM_WEIGHTS = 3 << 18
WIDE_BLOCKS_FROM_WEIGHTS = 1 << 26
EXACT_IN_4 = frozenset({"Q4_0"})
EXACT_IN_8 = frozenset({"Q4_0", "Q5_0", "Q8_0"})  # symmetric, with a scale for every 32 values
GRID_OF_16 = frozenset({"Q4_0", "Q4_1", "Q4_K"})  # step · q + low with q in 0 … 15 for every 32 values


@dataclass(frozen=True, slots=True)
class Format:
    """A layout of MatMulNBits: `bits` per value, one scale for every `block` values of a row.

    Without `sums` it is symmetric around 2^(bits-1). With them, blocks have zero points and each row ends with
    the columns that meet the sums of x, twice.
    """

    bits: int
    block: int
    sums: bool = False

    def columns(self, columns: int) -> int:
        """Columns of a stored matrix that stands for one of `columns`."""
        if not self.sums:
            return columns
        count = columns // SUM_BLOCK
        return columns + (copies(count) + 1) * count

    def blocks(self, columns: int) -> int:
        """Blocks in a stored row."""
        return padded(self.columns(columns), self.block) // self.block


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows of a matrix: data [N, blocks, bytes of a block], scales [N, blocks], zeros [N, ⌈blocks/2⌉] with sums."""

    data: Bytes
    scales: Floats
    zeros: Bytes | None = None


def format_for(
    types: Collection[str], shape: tuple[int, int], embedding: bool = False, compact: bool = False
) -> Format:
    """The format of stacked matrices of these types and this whole shape [N, K], of the recipe exact or `compact`."""
    kinds = set(types)
    if kinds == {"Q4_0"}:
        return Format(4, 32)
    if kinds <= GRID_OF_16 and (compact or shape[0] * shape[1] >= SUMS_FROM_WEIGHTS) and not embedding:
        return Format(4, 32, sums=True)
    if shape[0] * shape[1] >= WIDE_BLOCKS_FROM_WEIGHTS and shape[1] % 128 == 0 and not embedding:
        return Format(8, 128)
    if kinds & (EXACT_IN_8 - {"Q5_0"} if compact else EXACT_IN_8) or shape[1] % 64:
        return Format(8, 32)
    return Format(8, 64)


def pack(raw: Bytes, values: Floats, type_name: str, form: Format) -> Packed:
    """Quantise rows [N, K] of `values`; `raw` are the blocks [N, bytes] they were read from.

    A short last block is filled with zeros.
    """
    if form.sums:
        return _pack_with_sums(raw, values, type_name)
    blocks = _grouped(values, form.block)
    middle = 1 << (form.bits - 1)
    if form.block == 32 and type_name in (EXACT_IN_8 if form.bits == 8 else EXACT_IN_4):
        scales = _half_floats(raw, type_name, 1)[..., 0]
    else:
        scales = np.abs(blocks).max(axis=-1) / np.float32(middle - 1)
    return Packed(_bits(_round(blocks, scales, -middle, middle - 1) + middle, form.bits), scales)


def unpack(packed: Packed, form: Format, columns: int) -> Floats:
    """The values [N, columns] that packed rows stand for."""
    levels = packed.data if form.bits == 8 else _nibbles(packed.data)
    if packed.zeros is None:
        zeros: int | Bytes = 1 << (form.bits - 1)
    else:
        zeros = _nibbles(packed.zeros)[:, : levels.shape[1], None]
    stored: Floats = (levels.astype(np.float32) - zeros) * packed.scales[:, :, None]
    stored = stored.reshape(len(stored), -1)
    values = stored[:, :columns]
    if form.sums:
        count = columns // SUM_BLOCK
        second = columns + copies(count) * count
        rests = stored[:, columns : columns + count] + stored[:, second : second + count]
        values = values + np.repeat(rests / SUM_BLOCK, SUM_BLOCK, axis=1)
    return values


def _pack_with_sums(raw: Bytes, values: Floats, type_name: str) -> Packed:
    """Keep the source's own grid."""
    step, low = _grid(raw, type_name)
    return pack_grid(_round(_grouped(values, SUM_BLOCK) - low[:, :, None], step, 0, 15), step, low)


def pack_grid(levels: Floats, step: Floats, low: Floats) -> Packed:
    """Pack step · levels + low, levels [N, blocks of 32, 32] in 0 … 15, the others [N, blocks], for a Format with sums.

    What whole zero points cannot say goes into the sums' columns. Those meet averages, not sums, of x; hence the
    factor.
    """
    zeros = _round(-low[:, :, None], step, 0, 15)[:, :, 0]
    rest = (low + step * zeros) * SUM_BLOCK
    columns = [(levels, step, zeros)]
    count = rest.shape[1]
    for before in (0, copies(count) * count - padded(count, SUM_BLOCK)):
        grouped = _grouped(np.pad(rest, ((0, 0), (before, 0))), SUM_BLOCK)
        scales = np.abs(grouped).max(axis=-1) / np.float32(7)
        rounded = _round(grouped, scales, -8, 7)
        columns.append((rounded + 8, scales, np.full_like(scales, 8)))
        rest = rest - (rounded * scales[:, :, None]).reshape(len(rest), -1)[:, before : before + count]
    data, scales, zeros = (np.concatenate(parts, axis=1) for parts in zip(*columns, strict=True))
    zeros = np.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2)))
    return Packed(_bits(data, 4), scales, _bits(zeros, 4))


def _grid(raw: Bytes, type_name: str) -> tuple[Floats, Floats]:
    """(step, low) [N, blocks of 32] of a type in GRID_OF_16."""
    if type_name == "Q4_K":
        blocks = raw.reshape(-1, 144)
        scales = blocks[:, :4].copy().view(np.float16).astype(np.float32)
        step, low = quants.Q4_K.get_scale_min(blocks[:, 4:16])
        step, low = scales[:, :1] * step.reshape(-1, 8), -scales[:, 1:] * low.reshape(-1, 8)
        return step.reshape(len(raw), -1), low.reshape(len(raw), -1)
    if type_name == "Q4_0":
        step = _half_floats(raw, type_name, 1)[..., 0]
        return step, -8 * step
    both = _half_floats(raw, type_name, 2)
    return both[..., 0], both[..., 1]


def _half_floats(raw: Bytes, type_name: str, count: int) -> Floats:
    """The float16 numbers [N, blocks, count] that begin each block."""
    size = {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q8_0": 34}[type_name]
    heads = raw.reshape(raw.shape[0], -1, size)[:, :, : 2 * count]
    return np.ascontiguousarray(heads).view(np.float16).astype(np.float32)


def _round(blocks: Floats, scales: Floats, low: int, high: int) -> Floats:
    """Nearest whole multiples of each block's scale, within bounds; 0 where the scale is (all but) 0."""
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=np.abs(scales) >= np.finfo(np.float32).tiny)
    rounded: Floats = blocks * inverse[:, :, None]
    return np.clip(np.rint(rounded, out=rounded), low, high, out=rounded)


def _grouped(values: Floats, block: int) -> Floats:
    """[N, K] as [N, blocks, block], filled up with zeros."""
    rows, columns = values.shape
    filled = np.pad(values, ((0, 0), (0, -columns % block))) if columns % block else values
    return filled.reshape(rows, -1, block)


def _bits(levels: Floats, bits: int) -> Bytes:
    """Whole numbers as bytes, for 4 bits two in one, the first one low."""
    data = levels.astype(np.uint8)
    return data if bits == 8 else data[..., ::2] | data[..., 1::2] << np.uint8(4)


def _nibbles(data: Bytes) -> Bytes:
    halves: Bytes = np.stack((data & np.uint8(15), data >> np.uint8(4)), axis=-1)
    return halves.reshape(*data.shape[:-1], -1)


def copies(sums: int) -> int:
    """How often x's sums are appended before those that meet the second rounding, which must begin in another block.

    Repeating them, against zeros, is a node less than filling up the block.
    """
    return -(-padded(sums, SUM_BLOCK) // sums)


def padded(count: int, block: int) -> int:
    """`count` rounded up to whole blocks."""
    return -(-count // block) * block
