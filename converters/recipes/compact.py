"""4 bits wherever the source has 4, and with the recipe q4 where it has more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import onnx_ir as ir

from appliance.store.gguf_header import TensorInfo
from converters.formats import GRID_OF_16, SUM_BLOCK, Bytes, Floats, Format, Packed, format_for, pack_grid
from converters.graph import Graph
from converters.recipes.base import EMBEDDING, HEAD, Progress, stacked_shape
from converters.recipes.exact import Exact
from converters.rounding import grid
from converters.source import Source

FULL_PRECISION = frozenset({"F64", "F32", "F16", "BF16", "Q8_0"})


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
        return format_for(types, stacked_shape(tensors), embedding, compact=True)

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
