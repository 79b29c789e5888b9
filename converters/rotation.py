"""The prefill graph of the recipe `int8-rotated`: int8 matrices behind a rotation that makes int8 good enough.

After QuaRot (Ashkboos et al., 2024, arXiv:2404.00456), its rotation R1: the gain of each RMSNorm is folded into the
matrices that follow, and the whole residual stream is multiplied by one orthogonal matrix, which is folded into every
matrix that reads or writes it. The function stays the same, since RMSNorm without gain does not see a rotation; keys
and values stay those of the exact graph, so both graphs share a KV cache.

A rotated, normalised row is nearly Gaussian with a mean square of 1, whatever the token. So one constant scale
serves as the quantisation of every row, rows stay independent of each other, and chunks of any size give the same
bits. The matrices that read the residual stream are int8 with a scale per output; those that write it read
something else and stay 8-bit in blocks.

The graph computes keys and values only: it has no head, and the exact graph runs a prompt's last tokens.

SmolLM2-135M Q4_1, two threads: see docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.store.gguf_header import TensorInfo
from converters.formats import Format, pack
from converters.graph import MICROSOFT, Graph
from converters.recipes import FLOAT, UINT8, Exact
from converters.source import GGUFSource

Floats = NDArray[np.float32]

INPUT_SCALE = 4.5 / 127  # 4.5 standard deviations: less than 1 value in 10^5 is clipped
INPUT_ZERO = 128
SEED = 20240401
WIDEST_FACTOR = 64
WRITERS = Format(8, 64)
INT8 = ir.DataType.INT8


@dataclass(frozen=True, slots=True)
class Rotation:
    """The orthogonal matrix diag(signs) · (left ⊗ right) of size [K, K], kept as its factors."""

    signs: Floats
    left: Floats
    right: Floats

    @classmethod
    def random(cls, columns: int) -> Rotation:
        """The rotation of rows of `columns` values, always the same one."""
        random = np.random.default_rng(SEED)
        width = min(columns & -columns, WIDEST_FACTOR)
        signs = random.choice(np.array([-1, 1], np.float32), columns)
        return cls(signs, orthogonal(columns // width, random), hadamard(width))

    def rows(self, values: Floats) -> Floats:
        """values [N, K] times the matrix."""
        parts = (values * self.signs).reshape(len(values), len(self.left), len(self.right))
        rotated: Floats = (self.left.T @ parts @ self.right).reshape(values.shape)
        return rotated


def hadamard(size: int) -> Floats:
    """Sylvester's orthogonal Hadamard matrix; `size` is a power of two."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.float32(np.sqrt(size))


def orthogonal(size: int, random: np.random.Generator) -> Floats:
    """A Hadamard matrix if there is one of this size, else a random orthogonal one."""
    if size & (size - 1) == 0:
        return hadamard(size)
    matrix, _ = np.linalg.qr(random.standard_normal((size, size)))
    return matrix.astype(np.float32)


class Rotated(Exact):
    """Rotated int8 matrices for a second graph over the weights file of `exact`, whose embedding it shares."""

    def __init__(self, graph: Graph, source: GGUFSource, exact: Exact) -> None:
        super().__init__(graph, source, lambda size: None)
        self.share(exact)
        self._rotations: dict[int, Rotation] = {}

    def enter(self, x: ir.Value, columns: int) -> ir.Value:
        """Rotate the embeddings [B,S,K] that enter the residual stream."""
        rotation = self._rotation(columns)
        left, right = len(rotation.left), len(rotation.right)
        constant = self.graph.constant
        (x,) = self.graph.node("Mul", x, constant("rotation.signs", rotation.signs))
        (x,) = self.graph.node("Reshape", x, constant("rotation.split", np.array([0, 0, left, right])))
        (x,) = self.graph.node("MatMul", constant("rotation.left", np.ascontiguousarray(rotation.left.T)), x)
        (x,) = self.graph.node("MatMul", x, constant("rotation.right", rotation.right))
        return self.graph.node("Reshape", x, constant("rotation.join", np.array([0, 0, columns])))[0]

    def gain(self, name: str) -> ir.Value:
        """Ones: the gain is part of the matrices that follow the norm."""
        columns = self.source.tensors[name].shape[0]
        return self.graph.constant(f"ones.{columns}", np.ones(columns, np.float32))

    def linear(self, x: ir.Value, *names: str, after: str | None = None) -> ir.Value:
        """A matrix that reads the residual stream, behind the norm `after`, in int8; others as `Exact` does."""
        if after is None:
            return super().linear(x, *names)
        tensors = [self.source.tensors[f"{name}.weight"] for name in names]
        rows, columns = sum(tensor.shape[0] for tensor in tensors), tensors[0].shape[1]
        file, name = self.graph.file, "+".join(names)
        data, scales = file.reserve(rows * columns), file.reserve(4 * rows)

        def fill() -> None:
            values, scale = self._readers(tensors, after)
            file.append(data, values)
            file.append(scales, scale)

        file.later(fill)
        constant, stored = self.graph.constant, self.graph.stored
        scale = constant("input.scale", np.array(INPUT_SCALE, np.float32))
        zero = constant("input.zero", np.array(INPUT_ZERO, np.uint8))
        (rounded,) = self.graph.node("QuantizeLinear", x, scale, zero)
        weights = stored(f"{name}.int8", data, INT8, (columns, rows))
        inputs = (rounded, weights, scale, stored(f"{name}.int8.scales", scales, FLOAT, (rows,)), zero)
        bias = self._bias(names, tensors)
        return self.graph.node("MatMulIntegerToFloat", *inputs, None, bias, domain=MICROSOFT)[0]

    def back(self, x: ir.Value, name: str) -> ir.Value:
        """A matrix that writes the residual stream, 8-bit in blocks; what it writes is rotated."""
        tensor = self.source.tensors[f"{name}.weight"]
        rows, columns = tensor.shape
        form = WRITERS if columns % WRITERS.block == 0 else Format(8, 32)
        blocks = form.blocks(columns)
        file = self.graph.file
        data, scales = file.reserve(rows * blocks * form.block), file.reserve(4 * rows * blocks)

        def fill() -> None:
            values = self._rotation(rows).rows(self.source.values(tensor).T).T
            packed = pack(np.empty(0, np.uint8), np.ascontiguousarray(values), "F32", form)
            file.append(data, packed.data)
            file.append(scales, packed.scales)

        file.later(fill)
        inputs = [
            x,
            self.graph.stored(f"{name}.rotated", data, UINT8, (rows, blocks, form.block)),
            self.graph.stored(f"{name}.rotated.scales", scales, FLOAT, (rows, blocks)),
        ]
        if bias := self._rotated_bias(name, rows):
            inputs += [None, None, bias]  # type: ignore[list-item]
        numbers = {"K": columns, "N": rows, "bits": form.bits, "block_size": form.block}
        return self.graph.node("MatMulNBits", *inputs, domain=MICROSOFT, accuracy_level=4, **numbers)[0]

    def _rotated_bias(self, name: str, rows: int) -> ir.Value | None:
        bias = self.source.tensors.get(f"{name}.bias")
        if bias is None:
            return None
        values = self._rotation(rows).rows(self.source.values(bias)[None])[0]
        return self.graph.constant(f"{name}.bias", values)

    def _readers(self, tensors: Sequence[TensorInfo], norm: str) -> tuple[NDArray[np.int8], Floats]:
        """Stacked matrices [N,K] behind the norm's gain, rotated: int8 [K,N] and the scales [N] of its columns."""
        gain = self.source.values(self.source.tensors[norm])
        rotation = self._rotation(len(gain))
        rounded, scales = [], []
        for tensor in tensors:
            for _, values in self.source.chunks(tensor):
                rotated = rotation.rows(values * gain)
                scale = np.maximum(np.abs(rotated).max(axis=1), np.finfo(np.float32).tiny) / np.float32(127)
                rounded.append(np.rint(rotated / scale[:, None]).astype(np.int8))
                scales.append(scale)
        return np.concatenate(rounded).T, np.concatenate(scales)

    def _rotation(self, columns: int) -> Rotation:
        if columns not in self._rotations:
            self._rotations[columns] = Rotation.random(columns)
        return self._rotations[columns]
