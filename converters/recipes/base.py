"""What all recipes share: vectors, tables, biases, routers, and what is lost on the way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.store.gguf_header import TensorInfo
from converters.experts import Experts, in_turns
from converters.formats import Floats
from converters.graph import MICROSOFT, Graph
from converters.source import Source
from converters.weights import Region

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
FLOAT, UINT8 = ir.DataType.FLOAT, ir.DataType.UINT8
Progress = Callable[[int], None]


@dataclass(slots=True)
class MatrixError:
    """How far a stored matrix is from the source's: sums of squares, of the differences and of the values."""

    type_name: str
    name: str
    squares: float = 0.0
    total: float = 0.0

    def add(self, values: Floats, stored: Floats) -> None:
        """Some rows, and what is stored for them."""
        difference = (stored - values).ravel()
        self.squares += float(difference @ difference)
        self.total += float(values.ravel() @ values.ravel())


class Recipe:
    """What all recipes share: vectors, tables and biases. `progress` is told the source bytes that were used."""

    def __init__(self, graph: Graph, source: Source, progress: Progress) -> None:
        self.graph = graph
        self.source = source
        self.progress = progress
        self._errors: list[MatrixError] = []
        self._tables: dict[str, Region] = {}

    def enter(self, x: ir.Value, columns: int) -> ir.Value:
        """What the embeddings [B,S,K] become as they enter the residual stream."""
        return x

    def gain(self, name: str) -> ir.Value:
        """The gain of an RMSNorm over the residual stream."""
        return self.vector(name)

    def written_gain(self, name: str, factor: float) -> ir.Value:
        """The gain, times `factor`, of an RMSNorm over what a matrix is about to add to the residual stream."""
        return self.vector(name, factor)

    def head_gains(self, queries: str, keys: str, heads: int, kv_heads: int) -> ir.Value:
        """The gains `queries` and `keys` [head_dim] of an RMSNorm over each head, for [heads + kv_heads, head_dim]."""
        parts = []
        for name, count in ((queries, heads), (keys, kv_heads)):
            tensor = self.source.tensors[f"{name}.weight"]
            self.progress(tensor.size)
            parts.append(np.tile(self.source.values(tensor), (count, 1)))
        return self.graph.constant(f"{queries}+{keys}", np.concatenate(parts))

    def back(self, x: ir.Value, name: str) -> ir.Value:
        """`linear` with a matrix that writes the residual stream."""
        return self.linear(x, name)

    def gate_up(self, x: ir.Value, gate: str, up: str, after: str) -> Sequence[ir.Value]:
        """Two matrices of one shape that read the same rows: both products."""
        both = self.linear(x, gate, up, after=after)
        return self.graph.node("Split", both, axis=-1, num_outputs=2, outputs=2)

    def head(self, x: ir.Value, name: str, after: str) -> ir.Value:
        """`linear` with the matrix that gives the logits."""
        return self.linear(x, name, after=after)

    def linear(self, x: ir.Value, *names: str, after: str | None = None) -> ir.Value:
        """x [..,K] times the transposes of the matrices `names` [N,K] side by side: [.., ΣN], plus their biases.

        `after` names the gain of the RMSNorm of the residual stream that x comes from, if it does.
        """
        tensors = [self.source.tensors[f"{name}.weight"] for name in names]
        return self._matmul(x, tensors, self._bias(names, tensors))

    def embedding(self, ids: ir.Value, name: str) -> ir.Value:
        """Rows `ids` of the matrix `name`."""
        raise NotImplementedError

    def router(self, x: ir.Value, name: str) -> ir.Value:
        """x times the transpose of the matrix `name`, not quantised: products are compared, so small errors count."""
        tensor = self.source.tensors[f"{name}.weight"]
        matrix = self._floats(tensor.name, [[tensor]], stacked_shape([tensor]))
        return self.graph.node("FusedMatMul", x, matrix, domain=MICROSOFT, transB=1)[0]

    def experts(self, x: ir.Value, scores: ir.Value, experts: Experts) -> ir.Value:
        """What experts with these scores [B,S,count] make of x [B,S,hidden], which they read and write alike."""
        raise NotImplementedError

    def _matmul(self, x: ir.Value, tensors: Sequence[TensorInfo], bias: ir.Value | None) -> ir.Value:
        raise NotImplementedError

    def vector(self, name: str, factor: float = 1.0) -> ir.Value:
        """A small tensor as float32, times `factor`, kept in the graph file."""
        tensor = self.source.tensors[name]
        self.progress(tensor.size)
        return self.graph.constant(name, np.float32(factor) * self.source.values(tensor))

    def table(self, name: str, shape: tuple[int, int], rows: Callable[[int, int], NDArray[np.float32]]) -> ir.Value:
        """A computed float32 matrix: `rows(start, stop)` gives its rows."""
        if name in self._tables:
            return self.graph.stored(name, self._tables[name], self.graph.target.dtype, shape)
        file, target = self.graph.file, self.graph.target
        region = self._tables[name] = file.reserve(target.floats.itemsize * shape[0] * shape[1])
        step = max(1, (1 << 20) // shape[1])

        def fill() -> None:
            for start in range(0, shape[0], step):
                file.append(region, target.cast(rows(start, min(start + step, shape[0]))))

        file.later(fill)
        return self.graph.stored(name, region, self.graph.target.dtype, shape)

    def _floats(self, name: str, groups: Sequence[Sequence[TensorInfo]], shape: tuple[int, ...]) -> ir.Value:
        """Groups of tensors on top of each other, the rows of each group in turns, in the target's type."""
        file, target = self.graph.file, self.graph.target
        region = file.reserve(target.floats.itemsize * int(np.prod(shape)))

        def fill() -> None:
            for tensors in groups:
                for parts in in_turns(self.source, tensors):
                    file.append(region, target.cast(np.stack([values for _, values in parts], axis=1)))
                    self.progress(sum(raw.nbytes for raw, _ in parts))

        file.later(fill)
        return self.graph.stored(name, region, target.dtype, shape)

    def _bias(self, names: Sequence[str], tensors: Sequence[TensorInfo]) -> ir.Value | None:
        present = [self.source.tensors.get(f"{name}.bias") for name in names]
        if not any(present):
            return None
        parts = [
            np.zeros(tensor.shape[0], np.float32) if bias is None else self.source.values(bias)
            for bias, tensor in zip(present, tensors, strict=True)
        ]
        return self.graph.constant(f"{'+'.join(names)}.bias", np.concatenate(parts))

    def errors(self, part: int) -> dict[str, float]:
        """Relative RMS error of the stored matrices: by the type they came from (part 0), or by name (part 1)."""
        sums: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(2))
        for error in self._errors:
            sums[(error.type_name, error.name)[part]] += error.squares, error.total
        return {name: float(np.sqrt(error / total)) if total else 0.0 for name, (error, total) in sums.items()}

    def _measured(self, tensors: Sequence[TensorInfo]) -> list[MatrixError]:
        """What the job that stores these matrices adds their errors to."""
        errors = [MatrixError(tensor.type_name, tensor.name) for tensor in tensors]
        self._errors += errors
        return errors


def stacked_shape(tensors: Sequence[TensorInfo]) -> tuple[int, int]:
    """The shape [ΣN, K] of matrices on top of each other."""
    return sum(tensor.shape[0] for tensor in tensors), tensors[0].shape[1]
