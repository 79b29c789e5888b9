"""Block-quantised weights as close to the source as formats.py says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from appliance.errors import UnsupportedModel
from appliance.store.gguf_header import TensorInfo
from converters.experts import Experts, in_turns, mixed, stacked
from converters.formats import SUM_BLOCK, Bytes, Floats, Format, Packed, copies, format_for, pack, unpack
from converters.graph import MICROSOFT, Graph, with_averages
from converters.recipes.base import EMBEDDING, UINT8, MatrixError, Progress, Recipe, stacked_shape
from converters.recipes.shortlist import preview_format, with_shortlist
from converters.source import Source
from converters.weights import Region


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
        self._looked_up: dict[str, tuple[ir.Value, ir.Value, Format]] = {}

    def share(self, other: Exact) -> None:
        """Use what `other`, over another graph and the same weights file, has stored, and store for it too."""
        self._stored, self._tables = other._stored, other._tables

    def embedding(self, ids: ir.Value, name: str) -> ir.Value:
        tensor = self.source.tensors[f"{name}.weight"]
        if not self.graph.target.packed_tables:
            return self.graph.node("Gather", self._floats(f"{name}.table", [[tensor]], tensor.shape), ids, axis=0)[0]
        if tensor.shape[1] % 32:
            raise UnsupportedModel(f"an embedding of {tensor.shape[1]} columns", ("multiples of 32",))
        return self._rows(ids, name)

    def head(self, x: ir.Value, name: str, after: str) -> ir.Value:
        """`linear` with the matrix that gives the logits; a large one in 4 bits, its likeliest rows again in 8."""
        tensor = self.source.tensors[f"{name}.weight"]
        form = preview_format(self._form([tensor], embedding=False), tensor.shape)
        if form is None or not self.graph.target.shortlists:
            return self.linear(x, name, after=after)
        logits = self._product(x, f"{tensor.name}.preview", self._store([tensor], form, measured=False))
        return with_shortlist(self.graph, logits, x, lambda ids: self._rows(ids, name))

    def _rows(self, ids: ir.Value, name: str) -> ir.Value:
        """Rows `ids` [..] of the matrix `name` [N,K]: [..,K]."""
        if name not in self._looked_up:
            tensor = self.source.tensors[f"{name}.weight"]
            stored = self._store([tensor], self._form([tensor], embedding=True))
            shape = stored.rows, stored.columns * stored.form.bits // 8
            data = self.graph.stored(f"{name}.table", stored.data, UINT8, shape)
            self._looked_up[name] = data, self._scales(f"{name}.table", stored), stored.form
        data, scales, form = self._looked_up[name]
        attributes = {"bits": form.bits, "block_size": form.block, "gather_axis": 0, "quantize_axis": 1}
        return self.graph.node("GatherBlockQuantized", data, ids, scales, domain=MICROSOFT, **attributes)[0]

    def _matmul(self, x: ir.Value, tensors: Sequence[TensorInfo], bias: ir.Value | None) -> ir.Value:
        name = "+".join(tensor.name for tensor in tensors)
        return self._product(x, name, self._store(tensors, self._form(tensors, embedding=False)), bias)

    def _product(self, x: ir.Value, name: str, stored: Stored, bias: ir.Value | None = None) -> ir.Value:
        """x [..,K] times the transpose of stacked matrices, plus their bias; `name` is that of the initializer."""
        form, rows = stored.form, stored.rows
        blocks = form.blocks(stored.columns)
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
        file, target, (count, rows, columns) = self.graph.file, self.graph.target, stacked(tensors)
        width, blocks = columns * form.bits // 8, columns // form.block
        data = file.reserve(count * rows * width)
        scales = file.reserve(target.floats.itemsize * count * rows * blocks)
        errors = self._measured(tensors)

        def fill() -> None:
            for parts in in_turns(self.source, tensors):
                packed = [pack(*part, tensor.type_name, form) for tensor, part in zip(tensors, parts, strict=True)]
                file.append(data, np.stack([each.data for each in packed], axis=1))
                file.append(scales, target.cast(np.stack([each.scales for each in packed], axis=1)))
                for error, (raw, values), each in zip(errors, parts, packed, strict=True):
                    error.add(values, unpack(each, form, columns))
                    self.progress(raw.nbytes)

        file.later(fill)
        name = "+".join(tensor.name for tensor in tensors)
        return (
            self.graph.stored(name, data, UINT8, (count, rows, width)),
            self.graph.stored(f"{name}.scales", scales, target.dtype, (count, rows, blocks)),
        )

    def _form(self, tensors: Sequence[TensorInfo], embedding: bool) -> Format:
        """A head that shares its matrix with the embedding shares its format too."""
        table = embedding or tensors[0].name == EMBEDDING
        return format_for([tensor.type_name for tensor in tensors], stacked_shape(tensors), table)

    def _store(self, tensors: Sequence[TensorInfo], form: Format, measured: bool = True) -> Stored:
        """Reserve the bytes of stacked matrices and have them filled, once for each format.

        What is not `measured` stands beside the same matrices in a finer format.
        """
        key = form, tuple(tensor.name for tensor in tensors)
        if key in self._stored:
            return self._stored[key]
        rows, columns = stacked_shape(tensors)
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
        errors = self._measured(tensors) if measured else [None] * len(tensors)
        file.later(lambda: self._fill(stored, tensors, errors))
        self._stored[key] = stored
        return stored

    def _fill(self, stored: Stored, tensors: Sequence[TensorInfo], errors: Sequence[MatrixError | None]) -> None:
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
                if error:
                    error.add(values, unpack(packed, stored.form, stored.columns))
                self.progress(raw.nbytes if error else 0)

    def _pack(self, tensor: TensorInfo, raw: Bytes, values: Floats, form: Format) -> Packed:
        return pack(raw, values, tensor.type_name, form)
