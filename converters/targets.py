"""What graphs for each execution provider are made of.

    cpu       float32; attention takes rows of different length in one run (query_seqlens)
    cuda      float16; a run has one sequence, or a token each of several: the released onnxruntime-gpu has no
              query_seqlens yet; gains of norms differ from head to head in a node of their own
    directml  like cuda; embeddings are looked up in float16, and biases added by a node of their own

Which operators and inputs a provider has is read from ONNX Runtime's list of kernels and DirectML's MatMulNBits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.errors import UnsupportedModel


@dataclass(frozen=True, slots=True)
class Target:
    """An execution provider's graph. `dtype` is that of activations, scales and the KV cache.

    `ragged`: GroupQueryAttention has the input query_seqlens. `packed_tables`: GatherBlockQuantized is there.
    `biased_products`: MatMulNBits has the input bias. `head_gains`: SimplifiedLayerNormalization has gains of several
    axes; CUDA's kernel reads the first head's for all of them. `shortlists`: heads of large vocabularies are read in
    4 bits first, see recipes/shortlist.py; measured on CPUs alone. `encodes`: it has the operators of encoders,
    `experts`: those of mixtures of experts.
    """

    name: str
    dtype: ir.DataType
    ragged: bool = False
    packed_tables: bool = True
    biased_products: bool = True
    head_gains: bool = False
    shortlists: bool = False
    encodes: bool = True
    experts: bool = True

    @property
    def floats(self) -> np.dtype[Any]:
        """`dtype` as numpy has it."""
        return self.dtype.numpy()

    def cast(self, array: NDArray[np.float32]) -> NDArray[Any]:
        """`array` in the target's type. Raises UnsupportedModel for numbers that it cannot hold."""
        try:
            with np.errstate(over="raise"):
                return array.astype(self.floats)
        except FloatingPointError as error:
            largest = f"a number of {np.abs(array).max():,.0f} among the weights for {self.name}"
            raise UnsupportedModel(largest, (f"at most {np.finfo(self.floats).max:,.0f}",)) from error

    @property
    def kv_dtype(self) -> str:
        """`dtype` as a bundle's description has it."""
        return str(self.floats)


CPU = Target("cpu", ir.DataType.FLOAT, ragged=True, head_gains=True, shortlists=True)
CUDA = Target("cuda", ir.DataType.FLOAT16)
DIRECTML = Target(
    "directml", ir.DataType.FLOAT16, packed_tables=False, biased_products=False, encodes=False, experts=False
)
TARGETS = {target.name: target for target in (CPU, CUDA, DIRECTML)}
