"""The recipe int8 of encoders: int8 matrices, and activations in int8 with a scale for every token.

An encoder reads whole texts, so arithmetic is what takes its time, and integer products are the fastest. Matrices have
a scale for every row; each token's values are divided by their largest magnitude before they are rounded, and the
product is multiplied by it. So a text's embedding does not depend on its neighbours in the batch, which one scale for
the whole input (com.microsoft's DynamicQuantizeMatMul) would make it do.

Measured with ONNX Runtime 1.32 on two threads of a Xeon with AMX. Milliseconds for 1,024 tokens times the three
matrices of MiniLM that take the most, [1152,384], [1536,384] and [384,1536], and the cosine of all-MiniLM-L6-v2's
embeddings of 200 texts with those in float32:

                                                        ms      cosine   least
    float32                                           11.2       1         1
    8-bit MatMulNBits, blocks of 32 (exact)           14.4         –         –
    int8, one scale for an input                       2.1    0.9813    0.9584
    int8, a scale for every token (this)               3.5    0.9971    0.9934
    … without rounding the matrices                      –    0.9976    0.9949
    … rounding the matrices alone                        –    0.9995    0.9991
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from appliance.store.gguf_header import TensorInfo
from converters.graph import MICROSOFT
from converters.recipes.base import FLOAT
from converters.recipes.exact import Exact
from converters.recipes.rotated import INT8, round_rows

ZERO, STEP = 128, 1 / 127  # of inputs between -1 and 1


class Int8(Exact):
    """Int8 products. Embeddings are stored as `exact` does it, blocks of 8 bits."""

    def _matmul(self, x: ir.Value, tensors: Sequence[TensorInfo], bias: ir.Value | None) -> ir.Value:
        constant, node = self.graph.constant, self.graph.node
        zero, step = (
            constant("input.zero", np.array(ZERO, np.uint8)),
            constant("input.step", np.array(STEP, np.float32)),
        )
        (sizes,) = node("Abs", x)
        (largest,) = node("ReduceMax", sizes, constant("last_axis", np.array([-1])), keepdims=1)
        # a row of zeros, which exists where a weight is pruned, stays one
        (largest,) = node("Max", largest, constant("tiny", np.array(np.finfo(np.float32).tiny, np.float32)))
        (rounded,) = node("QuantizeLinear", node("Div", x, largest)[0], step, zero)
        (y,) = node("MatMulIntegerToFloat", rounded, *self._matrix(tensors, step), zero, domain=MICROSOFT)
        (y,) = node("Mul", y, largest)
        return node("Add", y, bias)[0] if bias else y

    def _matrix(self, tensors: Sequence[TensorInfo], step: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Stacked matrices, transposed [K,ΣN], the step of what they are multiplied with, and their own steps [ΣN]."""
        rows, columns = sum(tensor.shape[0] for tensor in tensors), tensors[0].shape[1]
        file, name = self.graph.file, "+".join(tensor.name for tensor in tensors)
        data, scales = file.reserve(rows * columns), file.reserve(4 * rows)
        errors = self._measured(tensors)

        def fill() -> None:
            parts = []
            for tensor, error in zip(tensors, errors, strict=True):
                for raw, values in self.source.chunks(tensor):
                    rounded, steps = round_rows(values)
                    error.add(values, rounded * steps[:, None])
                    file.append(scales, steps)
                    parts.append(rounded)
                    self.progress(raw.nbytes)
            file.append(data, np.concatenate(parts).T)

        file.later(fill)
        matrix = self.graph.stored(name, data, INT8, (columns, rows))
        return matrix, step, self.graph.stored(f"{name}.scales", scales, FLOAT, (rows,))
