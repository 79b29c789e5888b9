"""How matrices enter the graph.

    exact    quantised, as close to the source as formats.py says, in the format that runs fastest
    compact  the same values, and what has 4 bits in the source has 4 bits in memory whatever it costs in speed
    q4       compact, and matrices of 8 bits and more are rounded to 4 where their inputs say that it hurts least
    fp32     the source's values as float32: the reference

Experts (experts.py) have formats of their own, the same with all recipes but fp32; routers are always float32.

A recipe adds the nodes, reserves the bytes, and leaves a job that fills them from the source.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.errors import UnsupportedModel
from appliance.store.gguf_header import TensorInfo
from converters.experts import Experts, in_turns, mixed, stacked
from converters.formats import (
    GRID_OF_16,
    SUM_BLOCK,
    Bytes,
    Floats,
    Format,
    Packed,
    copies,
    format_for,
    pack,
    pack_grid,
    unpack,
)
from converters.graph import MICROSOFT, Graph, with_averages
from converters.rounding import grid
from converters.source import Source
from converters.weights import Region

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
FULL_PRECISION = frozenset({"F64", "F32", "F16", "BF16", "Q8_0"})
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
        """x times the transpose of the matrix `name` in float32: its products are compared, so small errors count."""
        tensor = self.source.tensors[f"{name}.weight"]
        matrix = self._floats(tensor.name, [[tensor]], _stacked([tensor]))
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


@dataclass(frozen=True, slots=True)
class Stored:
    """Where stacked matrices of one format lie in the weights file."""

    form: Format
    rows: int
    columns: int
    data: Region
    scales: Region
    zeros: Region


class Exact(Recipe):
    """Block-quantised weights that stand for the source's values as closely as formats.py says."""

    def __init__(self, graph: Graph, source: Source, progress: Progress) -> None:
        super().__init__(graph, source, progress)
        self._stored: dict[tuple[Format, tuple[str, ...]], Stored] = {}

    def share(self, other: Exact) -> None:
        """Use what `other`, over another graph and the same weights file, has stored, and store for it too."""
        self._stored, self._tables = other._stored, other._tables

    def embedding(self, ids: ir.Value, name: str) -> ir.Value:
        tensor = self.source.tensors[f"{name}.weight"]
        if not self.graph.target.packed_tables:
            return self.graph.node("Gather", self._floats(f"{name}.table", [[tensor]], tensor.shape), ids, axis=0)[0]
        if tensor.shape[1] % 32:
            raise UnsupportedModel(f"an embedding of {tensor.shape[1]} columns", ("multiples of 32",))
        stored = self._store([tensor], embedding=True)
        bits, block = stored.form.bits, stored.form.block
        table = (stored.rows, stored.columns * bits // 8)
        inputs = (
            self.graph.stored(f"{name}.table", stored.data, UINT8, table),
            ids,
            self._scales(f"{name}.table", stored),
        )
        axes = {"gather_axis": 0, "quantize_axis": 1}
        return self.graph.node("GatherBlockQuantized", *inputs, domain=MICROSOFT, bits=bits, block_size=block, **axes)[
            0
        ]

    def _matmul(self, x: ir.Value, tensors: Sequence[TensorInfo], bias: ir.Value | None) -> ir.Value:
        stored = self._store(tensors)
        form, rows = stored.form, stored.rows
        blocks = form.blocks(stored.columns)
        name = "+".join(tensor.name for tensor in tensors)
        inputs = [
            self.graph.stored(name, stored.data, UINT8, (rows, blocks, form.block * form.bits // 8)),
            self._scales(name, stored),
        ]
        if form.sums:
            x = with_averages(self.graph, x, SUM_BLOCK, copies(stored.columns // SUM_BLOCK) + 1)
            inputs.append(self.graph.stored(f"{name}.zeros", stored.zeros, UINT8, (rows, (blocks + 1) // 2)))
        fused = bias if self.graph.target.biased_products else None
        optional = [*inputs[2:], *[None] * (4 - len(inputs)), fused] if fused else inputs[2:]
        (y,) = self.graph.node(
            "MatMulNBits",
            *(x, *inputs[:2], *optional),
            domain=MICROSOFT,
            K=form.columns(stored.columns),
            N=rows,
            bits=form.bits,
            block_size=form.block,
            accuracy_level=4,
        )
        return self.graph.node("Add", y, bias)[0] if bias and not fused else y

    def _scales(self, name: str, stored: Stored) -> ir.Value:
        shape = stored.rows, stored.form.blocks(stored.columns)
        return self.graph.stored(f"{name}.scales", stored.scales, self.graph.target.dtype, shape)

    def experts(self, x: ir.Value, scores: ir.Value, experts: Experts) -> ir.Value:
        form = experts.form
        read, written = (self._store_in_turns(tensors, form) for tensors in experts.matrices)
        attributes = {"expert_weight_bits": form.bits, "block_size": form.block, "weights_prepacked": 0}
        inputs = (*read, None, *written)
        return mixed(self.graph, "QMoE", x, scores, inputs, experts, accuracy_level=4, **attributes)

    def _store_in_turns(self, tensors: Sequence[TensorInfo], form: Format) -> tuple[ir.Value, ir.Value]:
        """Matrices and scales of experts whose rows come in turns."""
        file, (count, rows, columns) = self.graph.file, stacked(tensors)
        width, blocks = columns * form.bits // 8, columns // form.block
        data, scales = file.reserve(count * rows * width), file.reserve(4 * count * rows * blocks)
        errors = self._measured(tensors)

        def fill() -> None:
            for parts in in_turns(self.source, tensors):
                packed = [pack(*part, tensor.type_name, form) for tensor, part in zip(tensors, parts, strict=True)]
                file.append(data, np.stack([each.data for each in packed], axis=1))
                file.append(scales, np.stack([each.scales for each in packed], axis=1))
                for error, (raw, values), each in zip(errors, parts, packed, strict=True):
                    error.add(values, unpack(each, form, columns))
                    self.progress(raw.nbytes)

        file.later(fill)
        name = "+".join(tensor.name for tensor in tensors)
        return (
            self.graph.stored(name, data, UINT8, (count, rows, width)),
            self.graph.stored(f"{name}.scales", scales, FLOAT, (count, rows, blocks)),
        )

    def _form(self, tensors: Sequence[TensorInfo], embedding: bool) -> Format:
        """A head that shares its matrix with the embedding shares its format too."""
        table = embedding or tensors[0].name == EMBEDDING
        return format_for([tensor.type_name for tensor in tensors], _stacked(tensors), table)

    def _store(self, tensors: Sequence[TensorInfo], embedding: bool = False) -> Stored:
        """Reserve the bytes of stacked matrices and have them filled, once for each format."""
        form = self._form(tensors, embedding)
        key = form, tuple(tensor.name for tensor in tensors)
        if key in self._stored:
            return self._stored[key]
        rows, columns = _stacked(tensors)
        blocks = form.blocks(columns)
        file = self.graph.file
        stored = Stored(
            form,
            rows,
            columns,
            data=file.reserve(rows * blocks * form.block * form.bits // 8),
            scales=file.reserve(self.graph.target.floats.itemsize * rows * blocks),
            zeros=file.reserve(rows * ((blocks + 1) // 2) if form.sums else 0),
        )
        errors = self._measured(tensors)
        file.later(lambda: self._fill(stored, tensors, errors))
        self._stored[key] = stored
        return stored

    def _fill(self, stored: Stored, tensors: Sequence[TensorInfo], errors: Sequence[MatrixError]) -> None:
        file, target = self.graph.file, self.graph.target
        for tensor, error in zip(tensors, errors, strict=True):
            for raw, values in self.source.chunks(tensor):
                packed = self._pack(tensor, raw, values, stored.form)
                scales = target.cast(packed.scales)
                packed = replace(packed, scales=scales.astype(np.float32))
                file.append(stored.data, packed.data)
                file.append(stored.scales, scales)
                if packed.zeros is not None:
                    file.append(stored.zeros, packed.zeros)
                error.add(values, unpack(packed, stored.form, stored.columns))
                self.progress(raw.nbytes)

    def _pack(self, tensor: TensorInfo, raw: Bytes, values: Floats, form: Format) -> Packed:
        return pack(raw, values, tensor.type_name, form)


class Compact(Exact):
    """Whatever has 4 bits in the source keeps 4 bits.

    Matrices of 4 bits are not fused with finer ones, and a shared embedding of 4 bits is stored a second time for the
    head: of the table that is only looked up, no more than the rows in use ever become resident.
    """

    def linear(self, x: ir.Value, *names: str, after: str | None = None) -> ir.Value:
        groups = groupby(names, lambda name: self._coarse(self.source.tensors[f"{name}.weight"]))
        parts = [super(Compact, self).linear(x, *group) for _, group in groups]
        return self.graph.node("Concat", *parts, axis=-1)[0] if len(parts) > 1 else parts[0]

    def _form(self, tensors: Sequence[TensorInfo], embedding: bool) -> Format:
        types = [tensor.type_name for tensor in tensors]
        return format_for(types, _stacked(tensors), embedding, sums_from=0)

    def _coarse(self, tensor: TensorInfo) -> bool:
        """Whether a matrix gets 4 bits."""
        return tensor.type_name in GRID_OF_16


class FourBits(Compact):
    """Matrices of full precision become 4 bits, as rounding.py does it; not the embedding and the head.

    Q5 and Q6 types keep what Compact gives them. `importance` holds, by tensor name, the mean square [K] of each
    column's input; it is to be set before the weights are written, and without it all columns count the same.
    """

    def __init__(self, graph: Graph, source: Source, progress: Progress) -> None:
        super().__init__(graph, source, progress)
        self.importance: Mapping[str, Floats] = {}

    def _form(self, tensors: Sequence[TensorInfo], embedding: bool) -> Format:
        if any(self._rounded(tensor) for tensor in tensors) and not embedding:
            return Format(4, SUM_BLOCK, sums=True)
        return super()._form(tensors, embedding)

    def _coarse(self, tensor: TensorInfo) -> bool:
        return self._rounded(tensor) or super()._coarse(tensor)

    def _rounded(self, tensor: TensorInfo) -> bool:
        whole = tensor.shape[1] % SUM_BLOCK == 0 and tensor.name not in (EMBEDDING, HEAD)
        return whole and tensor.type_name in FULL_PRECISION

    def _pack(self, tensor: TensorInfo, raw: Bytes, values: Floats, form: Format) -> Packed:
        if not form.sums or tensor.type_name in GRID_OF_16:
            return super()._pack(tensor, raw, values, form)
        return pack_grid(*grid(values, self.importance.get(tensor.name), SUM_BLOCK))


class Full(Recipe):
    """The source's values as float32: the reference that the other recipes are held against."""

    def __init__(self, graph: Graph, source: Source, progress: Progress) -> None:
        super().__init__(graph, source, progress)
        self._stored: dict[tuple[str, ...], ir.Value] = {}

    def embedding(self, ids: ir.Value, name: str) -> ir.Value:
        return self.graph.node("Gather", self._store([self.source.tensors[f"{name}.weight"]]), ids, axis=0)[0]

    def _matmul(self, x: ir.Value, tensors: Sequence[TensorInfo], bias: ir.Value | None) -> ir.Value:
        (y,) = self.graph.node("FusedMatMul", x, self._store(tensors), domain=MICROSOFT, transB=1)
        return self.graph.node("Add", y, bias)[0] if bias else y

    def experts(self, x: ir.Value, scores: ir.Value, experts: Experts) -> ir.Value:
        read, written = (
            self._floats("+".join(tensor.name for tensor in tensors), [tensors], stacked(tensors))
            for tensors in experts.matrices
        )
        return mixed(self.graph, "MoE", x, scores, (read, None, written), experts)

    def _store(self, tensors: Sequence[TensorInfo]) -> ir.Value:
        key = tuple(tensor.name for tensor in tensors)
        if key in self._stored:
            return self._stored[key]
        self._stored[key] = self._floats("+".join(key), [[tensor] for tensor in tensors], _stacked(tensors))
        return self._stored[key]


def _stacked(tensors: Sequence[TensorInfo]) -> tuple[int, int]:
    """The shape [ΣN, K] of matrices on top of each other."""
    return sum(tensor.shape[0] for tensor in tensors), tensors[0].shape[1]


RECIPES: dict[str, type[Recipe]] = {"exact": Exact, "compact": Compact, "q4": FourBits, "fp32": Full}
