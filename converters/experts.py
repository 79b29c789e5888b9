"""Mixtures of experts: every row goes through the few MLPs that a router scores highest, and their outputs are mixed.

ONNX Runtime's kernels MoE and QMoE do this for gated MLPs whose rows of gate and up come in turns, in one matrix.
QMoE takes one format for all of an expert's matrices, without sums (formats.py): 4 bits for Q4_0, 8 bits for all other
types, whatever the recipe, since rounding a grid of 4 bits to another one costs too much.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.errors import UnsupportedModel
from appliance.store.gguf_header import TensorInfo
from converters.formats import Format, format_for
from converters.graph import MICROSOFT, Graph
from converters.source import Source
from converters.targets import CPU, CUDA

Rows = tuple[NDArray[np.uint8], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Experts:
    """A layer's experts: gate and up [count, width, hidden], down [count, hidden, width].

    `used` of them are mixed for a row, by the softmax of all scores, or of the used ones' only if `normalised`.
    """

    gate: TensorInfo
    up: TensorInfo
    down: TensorInfo
    used: int
    normalised: bool = True

    @property
    def matrices(self) -> tuple[Sequence[TensorInfo], Sequence[TensorInfo]]:
        """What is read into, and what is written from, the width."""
        return (self.gate, self.up), (self.down,)

    @property
    def form(self) -> Format:
        """The format of all matrices in QMoE."""
        count, width, hidden = self.gate.shape
        if width % 32 or hidden % 32:
            raise UnsupportedModel(f"experts of {width} × {hidden} weights", ("multiples of 32",))
        types = [tensor.type_name for tensor in (self.gate, self.up, self.down)]
        return format_for(types, (count, math.gcd(width, hidden)), embedding=True)


def mixed(
    graph: Graph,
    kind: str,
    x: ir.Value,
    scores: ir.Value,
    matrices: Sequence[ir.Value | None],
    experts: Experts,
    **attributes: Any,
) -> ir.Value:
    """The output [B,S,hidden] of a node MoE or QMoE for rows x [B,S,hidden] with `scores` [B,S,count]."""
    if not graph.target.experts:
        raise UnsupportedModel(f"a mixture of experts for {graph.target.name}", (CPU.name, CUDA.name))
    count = experts.gate.shape[0]
    (flat,) = graph.node("Reshape", scores, graph.constant(f"rows.{count}", np.array([-1, count])))
    return graph.node(
        kind,
        *(x, flat, *matrices),
        domain=MICROSOFT,
        k=experts.used,
        normalize_routing_weights=int(experts.normalised),
        activation_type="swiglu",
        activation_alpha=1.0,
        activation_beta=0.0,
        swiglu_fusion=1,
        **attributes,
    )[0]


def stacked(tensors: Sequence[TensorInfo]) -> tuple[int, int, int]:
    """The shape of matrices [count, rows, columns] whose rows come in turns."""
    count, rows, columns = tensors[0].shape
    return count, rows * len(tensors), columns


def in_turns(source: Source, tensors: Sequence[TensorInfo]) -> Iterator[tuple[Rows, ...]]:
    """The same rows of each of the tensors, which have one shape, a few at a time."""
    return zip(*(source.chunks(tensor) for tensor in tensors), strict=True)
