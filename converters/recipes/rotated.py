"""The batch graph of the recipe `int8-rotated`: int8 matrices behind a rotation that makes int8 good enough.

After QuaRot (Ashkboos et al., 2024, arXiv:2404.00456), its rotation R1: the gain of each RMSNorm is folded into the
matrices that follow, and the whole residual stream is multiplied by one orthogonal matrix, which is folded into every
matrix that reads or writes it. The function stays the same, since RMSNorm without gain does not see a rotation; keys
and values stay those of the other graph, so both graphs share a KV cache.

A rotated, normalised row is nearly Gaussian with a mean square of 1, whatever the token. So one constant scale
serves as the quantisation of every row, rows stay independent of each other, and chunks of any size give the same
bits. What the matrices that write the stream read (attention's values, the gated activations) has outliers and a size
of its own in every row: it is rotated in blocks and divided by its root mean square while the graph runs. Without that
rotation of attention's values, first choices agree with float32's for 89 %, not 94 %, of tokens.

Where a model normalises what it adds to the stream (Gemma), that norm's gain stands between the stream and the
matrices that write it: the stream stays as it is, and what matrices read is rotated while the graph runs
(`RotatedReads`).

Integer products are two to three times as fast as those of MatMulNBits once several rows share a weight's read; for a
single row, bytes count, and the recipe compact has fewer. Hence two graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.errors import UnsupportedModel
from appliance.store.gguf_header import TensorInfo
from converters.graph import MICROSOFT, Graph
from converters.recipes.base import FLOAT
from converters.recipes.exact import Exact
from converters.source import Source

Floats = NDArray[np.float32]

INPUT_SCALE = 4.5 / 127  # 4.5 standard deviations: less than 1 value in 10^5 is clipped
INPUT_ZERO = 128
SEED = 20240401
WIDEST_FACTOR = 64
SMALLEST_MEAN_SQUARE = 1e-12
INT8 = ir.DataType.INT8
POST_NORMS = ("post_attention_norm.weight", "post_ffw_norm.weight")  # over what is added to the stream


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
        width = widest_block(columns)
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


def widest_block(columns: int) -> int:
    """The size of the blocks in which rows of so many columns are rotated."""
    return min(columns & -columns, WIDEST_FACTOR)


def in_blocks(values: Floats) -> Floats:
    """Rows [N,K] rotated in blocks."""
    block = widest_block(values.shape[1])
    blocks: Floats = (values.reshape(-1, block) @ hadamard(block)).reshape(values.shape)
    return blocks


def round_rows(values: Floats) -> tuple[NDArray[np.int8], Floats]:
    """values [N, K] as int8, and the size [N] of each row's steps."""
    steps = np.maximum(np.abs(values).max(axis=1), np.finfo(np.float32).tiny) / np.float32(127)
    return np.rint(values / steps[:, None]).astype(np.int8), steps


class Rotated(Exact):
    """Rotated int8 matrices for a second graph over the weights file of `other`, whose embedding it shares."""

    def __init__(self, graph: Graph, source: Source, other: Exact) -> None:
        super().__init__(graph, source, lambda size: None)
        self.share(other)
        self._rotations: dict[int, Rotation] = {}
        self._quantised: dict[ir.Value, ir.Value] = {}
        self._levels: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

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

    def router(self, x: ir.Value, name: str) -> ir.Value:
        """Refused: experts in int8 beside those of the other graph would double what is most of such a model."""
        architecture = self.source.metadata.get("general.architecture")
        raise UnsupportedModel(
            f"recipe 'int8-rotated' for the architecture {architecture}, a mixture of experts",
            ("exact", "compact", "q4", "fp32"),
        )

    def linear(self, x: ir.Value, *names: str, after: str | None = None) -> ir.Value:
        """A matrix that reads the residual stream, behind the norm `after`, in int8."""
        assert after, "the residual stream is read behind norms only"
        tensors = [self.source.tensors[f"{name}.weight"] for name in names]
        shape = sum(tensor.shape[0] for tensor in tensors), tensors[0].shape[1]

        def rotated() -> Iterator[Floats]:
            gain = self.source.values(self.source.tensors[after])
            for tensor in tensors:
                for _, values in self.source.chunks(tensor):
                    yield self._rotation(len(gain)).rows(values * gain)

        return self._int8(x, "+".join(names), shape, rotated, self._bias(names, tensors))

    def head(self, x: ir.Value, name: str, after: str) -> ir.Value:
        """In int8 too, all of it: many rows share its read."""
        return self.linear(x, name, after=after)

    def gate_up(self, x: ir.Value, gate: str, up: str, after: str) -> Sequence[ir.Value]:
        """Apart, since splitting a product of many rows costs more than a second one."""
        return self.linear(x, gate, after=after), self.linear(x, up, after=after)

    def back(self, x: ir.Value, name: str) -> ir.Value:
        """A matrix that writes the residual stream, int8 too.

        What it reads has a size of its own in every row and outliers; so each row is rotated in blocks, divided by
        its root mean square before it is rounded, and the result multiplied by it.
        """
        tensor = self.source.tensors[f"{name}.weight"]
        rows, columns = tensor.shape
        x, inverse = self._levelled(x, columns)
        (y,) = self.graph.node(
            "Div", self._int8(x, name, (rows, columns), lambda: [self._rotated_blocks(tensor)]), inverse
        )
        bias = self._rotated_bias(name, rows)
        return self.graph.node("Add", y, bias)[0] if bias else y

    def _levelled(self, x: ir.Value, columns: int) -> tuple[ir.Value, ir.Value]:
        """x [B,S,K], rotated in blocks and divided by the root mean square of each row; the inverse of that [B,S,1]."""
        if x not in self._levels:
            block = widest_block(columns)
            constant, node = self.graph.constant, self.graph.node
            (y,) = node("Reshape", x, constant(f"blocks.{columns}", np.array([0, 0, columns // block, block])))
            (y,) = node("MatMul", y, constant(f"hadamard.{block}", hadamard(block)))
            (y,) = node("Reshape", y, constant(f"join.{columns}", np.array([0, 0, columns])))
            ones = constant(f"ones.{columns}", np.ones(columns, np.float32))
            y, inverse = node("SimplifiedLayerNormalization", y, ones, outputs=2, axis=-1, epsilon=SMALLEST_MEAN_SQUARE)
            self._levels[x] = y, inverse
        return self._levels[x]

    def _rotated_blocks(self, tensor: TensorInfo) -> Floats:
        """A matrix [N,K] that writes the stream and reads rows rotated in blocks."""
        return in_blocks(self._written(self.source.values(tensor)))

    def _written(self, values: Floats) -> Floats:
        """A matrix [N,K] that writes the stream, so that it writes a rotated one."""
        return self._rotation(len(values)).rows(np.ascontiguousarray(values.T)).T

    def _int8(
        self,
        x: ir.Value,
        name: str,
        shape: tuple[int, int],
        parts: Callable[[], Iterable[Floats]],
        bias: ir.Value | None = None,
    ) -> ir.Value:
        """x [..,K], of mean square 1, times the transpose of a matrix [N,K] that `parts` gives some rows at a time."""
        rows, columns = shape
        file = self.graph.file
        data, scales = file.reserve(rows * columns), file.reserve(4 * rows)

        def fill() -> None:
            rounded, steps = zip(*(round_rows(part) for part in parts()), strict=True)
            file.append(data, np.concatenate(rounded).T)
            file.append(scales, np.concatenate(steps))

        file.later(fill)
        scale = self.graph.constant("input.scale", np.array(INPUT_SCALE, np.float32))
        zero = self.graph.constant("input.zero", np.array(INPUT_ZERO, np.uint8))
        weights = self.graph.stored(f"{name}.int8", data, INT8, (columns, rows))
        steps = self.graph.stored(f"{name}.int8.scales", scales, FLOAT, (rows,))
        inputs = (self._rounded(x, scale, zero), weights, scale, steps, zero, None, bias)
        return self.graph.node("MatMulIntegerToFloat", *inputs, domain=MICROSOFT)[0]

    def _rounded(self, x: ir.Value, scale: ir.Value, zero: ir.Value) -> ir.Value:
        if x not in self._quantised:
            (self._quantised[x],) = self.graph.node("QuantizeLinear", x, scale, zero)
        return self._quantised[x]

    def _rotated_bias(self, name: str, rows: int) -> ir.Value | None:
        bias = self.source.tensors.get(f"{name}.bias")
        if bias is None:
            return None
        return self.graph.constant(f"{name}.bias", self._written(self.source.values(bias)[:, None])[:, 0])

    def _rotation(self, columns: int) -> Rotation:
        if columns not in self._rotations:
            self._rotations[columns] = Rotation.random(columns)
        return self._rotations[columns]


class RotatedReads(Rotated):
    """The same over a stream that is as it was: every matrix reads as Rotated's `back` does.

    The gains of Gemma's norms hold down channels that are a hundred times as large as others, so they stay in the
    norms; folded into the matrices, they would leave int8 to those channels alone (+3.4 nats for Gemma 3 270M).
    """

    def enter(self, x: ir.Value, columns: int) -> ir.Value:
        """The embeddings as they are."""
        return x

    def gain(self, name: str) -> ir.Value:
        """The norm's own."""
        return self.vector(name)

    def linear(self, x: ir.Value, *names: str, after: str | None = None) -> ir.Value:
        """Matrices side by side, in int8; those that read the same rows share what becomes of them."""
        tensors = [self.source.tensors[f"{name}.weight"] for name in names]
        rows, columns = sum(tensor.shape[0] for tensor in tensors), tensors[0].shape[1]
        x, inverse = self._levelled(x, columns)

        def rotated() -> Iterator[Floats]:
            for tensor in tensors:
                for _, values in self.source.chunks(tensor):
                    yield in_blocks(values)

        (y,) = self.graph.node("Div", self._int8(x, "+".join(names), (rows, columns), rotated), inverse)
        bias = self._bias(names, tensors)
        return self.graph.node("Add", y, bias)[0] if bias else y

    def back(self, x: ir.Value, name: str) -> ir.Value:
        """See `linear`."""
        return self.linear(x, name)


def rotated(graph: Graph, source: Source, other: Exact) -> Rotated:
    """The weights of a batch graph: the stream is rotated where nothing but matrices writes it."""
    kind = RotatedReads if any(name.endswith(POST_NORMS) for name in source.tensors) else Rotated
    return kind(graph, source, other)
