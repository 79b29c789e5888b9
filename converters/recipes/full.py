"""The source's values as float32."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from appliance.store.gguf_header import TensorInfo
from converters.experts import Experts, mixed, stacked
from converters.graph import MICROSOFT, Graph
from converters.recipes.base import Progress, Recipe, stacked_shape
from converters.source import Source


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
        self._stored[key] = self._floats("+".join(key), [[tensor] for tensor in tensors], stacked_shape(tensors))
        return self._stored[key]
