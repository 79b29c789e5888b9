"""How large a model's bundle will be, estimated from its header before anything is converted.

Bits a weight, with the scales, after the table in converters/formats.py:

    4 bits, blocks of 32              4 + 32/32 = 5
    4 bits, blocks of 32, with sums   (4 + 32/32 + 4/32) · 34/32 = 5.45
    8 bits, blocks of 32              8 + 32/32 = 9
    8 bits, blocks of 64              8 + 32/64 = 8.5
    8 bits, blocks of 128             8 + 32/128 = 8.25
    4 bits of a large head's preview  4 + 32/128 = 4.25, beside its 8 bits; these are never in blocks of 128
    8 bits, rotated, a second copy    8, of everything but an embedding that is not the head
    8 bits, of an encoder             8, and 8 bits in blocks for the embedding

`compact` keeps a 4-bit matrix that embedding and head share twice, in the format of each. Experts have one format for
all of a layer's matrices, without sums.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from appliance.store.gguf_header import ModelHeader, TensorInfo

FULL_PRECISION = frozenset({"F64", "F32", "F16", "BF16"})
_GRID_OF_16 = frozenset({"Q4_0", "Q4_1", "Q4_K"})
_EXACT_IN_8 = frozenset({"Q4_0", "Q5_0", "Q8_0"})
_LARGE = 3 << 18  # weights from which `exact` keeps 4 bits with sums
_HUGE = 1 << 26  # weights from which 8 bits come in blocks of 128, and heads have a preview
# GGUF's names, and those of checkpoints
_EMBEDDING = re.compile(r"token_embd\.weight|(?:.+\.)?(?:embed_tokens|word_embeddings|tok_embeddings)\.weight")
_HEAD = frozenset({"output.weight", "lm_head.weight"})
_LAYER = re.compile(r"blk\.|(?:.+\.)?layers?\.\d+\.")
_EXPERTS = re.compile(r"_exps|\.experts\.|\.block_sparse_moe\.(?:in|out)put_linear\.")
_ROPES = {"gemma3": 2}  # tables of positions: layers with a window have their own
_SHORT_FACTORS = "rope_factors_short.weight"  # the context of a bundle ends where they do
_FUSED = re.compile(r"\.(?:attn_[qkv]|ffn_(?:gate|up)|ffn_(?:gate|up|down)_exps)\.weight$")


@dataclass(frozen=True, slots=True)
class Footprint:
    """`weights` are bytes by recipe, `kv_values` the numbers that a token adds to the KV cache.

    `quantised`: some matrix has fewer bits than float16. `context_tokens` is what the model was trained for.
    `encodes`: it turns texts into vectors or scores, and has no cache.
    """

    quantised: bool
    weights: Mapping[str, int]
    kv_values: int
    context_tokens: int
    encodes: bool = False


@dataclass(frozen=True, slots=True)
class _Matrix:
    """Matrices of one format: their types, how many weights there are, what divides their rows, where they are used."""

    types: frozenset[str]
    weights: int
    columns: int
    embedding: bool
    shared: bool  # the embedding is the head too
    head: bool
    layer: bool
    experts: bool


def footprint(header: ModelHeader, merged: Collection[str] = ()) -> Footprint:
    """The footprint of a model, whatever its architecture; what the header does not say counts as nothing.

    The matrices `merged` have an adapter in them, and full precision since.
    """
    architecture = header.metadata.get("general.architecture")

    def count(key: str, otherwise: int = 0) -> int:
        value: Any = header.metadata.get(f"{architecture}.{key}")
        if isinstance(value, list) and all(type(item) is int for item in value):  # a number a layer
            value = max(value, default=0)
        return value if type(value) is int and value > 0 else otherwise

    heads = count("attention.head_count")
    width = count("embedding_length") // heads if heads else 0
    keys, values = count("attention.key_length", width), count("attention.value_length", width)
    context = count("context_length")
    if any(tensor.name == _SHORT_FACTORS for tensor in header.tensors):
        context = min(context, count("rope.scaling.original_context_length", context))
    tensors = [replace(each, type_name="F32") if each.name in merged else each for each in header.tensors]
    matrices = _matrices(tensors)
    vectors = 4 * sum(_size(tensor) for tensor in header.tensors if len(tensor.shape) < 2)
    # Cosines and sines for every position.
    rope = _ROPES.get(str(architecture), 1) * 4 * context * count("rope.dimension_count", keys)
    encodes = f"{architecture}.pooling_type" in header.metadata
    return Footprint(
        quantised=any(not matrix.types <= FULL_PRECISION for matrix in matrices),
        weights={
            recipe: vectors + rope + int(sum(matrix.weights * bits(matrix) for matrix in matrices) / 8)
            for recipe, bits in _BITS.items()
        },
        kv_values=0 if encodes else count("block_count") * count("attention.head_count_kv", heads) * (keys + values),
        context_tokens=context,
        encodes=encodes,
    )


def _size(tensor: TensorInfo) -> int:
    size = 1
    for length in tensor.shape:
        size *= length
    return size


def _matrices(tensors: Iterable[TensorInfo]) -> list[_Matrix]:
    """Those that get one format: queries, keys and values; gate and up; a layer's experts."""
    together: defaultdict[str, list[TensorInfo]] = defaultdict(list)
    for tensor in tensors:
        if len(tensor.shape) > 1:
            fused = _FUSED.search(tensor.name)
            kind = "attn" if ".attn_" in tensor.name else "ffn_exps" if _EXPERTS.search(tensor.name) else "ffn"
            together[f"{tensor.name[: fused.start()]} {kind}" if fused else tensor.name].append(tensor)
    return [
        _Matrix(
            frozenset(tensor.type_name for tensor in stack),
            sum(map(_size, stack)),
            math.gcd(*(tensor.shape[-1] for tensor in stack)),
            bool(_EMBEDDING.fullmatch(name)),
            _HEAD.isdisjoint(together),
            name in _HEAD or (bool(_EMBEDDING.fullmatch(name)) and _HEAD.isdisjoint(together)),
            bool(_LAYER.match(name)),
            bool(_EXPERTS.search(name)),
        )
        for name, stack in together.items()
    ]


def _in_8_bits(matrix: _Matrix, in_32: Collection[str] = _EXACT_IN_8) -> float:
    if matrix.weights >= _HUGE and matrix.columns % 128 == 0 and not matrix.embedding and not matrix.head:
        return 8.25
    return 9 if matrix.types & frozenset(in_32) or matrix.columns % 64 else 8.5


def _preview(matrix: _Matrix) -> float:
    return 4.25 if matrix.head and matrix.weights >= _HUGE and matrix.columns % 128 == 0 else 0


def _compact(matrix: _Matrix) -> float:
    if matrix.types == {"Q4_0"}:
        return 5
    if matrix.experts:
        return _in_8_bits(matrix)
    if not matrix.types <= _GRID_OF_16:
        return _in_8_bits(matrix, _EXACT_IN_8 - {"Q5_0"}) + _preview(matrix)
    if matrix.embedding:
        return _in_8_bits(matrix) + (5.45 if matrix.shared else 0)
    return 5.45


def _exact(matrix: _Matrix) -> float:
    if matrix.types == {"Q4_0"}:
        return 5
    large = matrix.weights >= _LARGE and not matrix.embedding and not matrix.experts
    return 5.45 if large and matrix.types <= _GRID_OF_16 else _in_8_bits(matrix) + _preview(matrix)


def _q4(matrix: _Matrix) -> float:
    rounded = matrix.layer and matrix.types <= FULL_PRECISION | {"Q8_0"} and not matrix.columns % 32
    return 5.45 if rounded and not matrix.experts else _compact(matrix)


def _int8_rotated(matrix: _Matrix) -> float:
    return _compact(matrix) + (8 if matrix.shared or not matrix.embedding else 0)


_BITS: Mapping[str, Callable[[_Matrix], float]] = {
    "exact": _exact,
    "compact": _compact,
    "int8-rotated": _int8_rotated,
    "q4": _q4,
    "int8": lambda matrix: _in_8_bits(matrix) if matrix.embedding else 8,
    "fp32": lambda matrix: 32,
}
