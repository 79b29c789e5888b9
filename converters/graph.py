"""A graph in the making, and small functions that each add a few nodes and return the value they compute.

Matrices are the business of recipes/.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir import serde

from converters.targets import CPU, Target
from converters.weights import Region, WeightsFile, initializer

MICROSOFT = "com.microsoft"
OPSET, ENCODER_OPSET = 21, 24  # of ONNX's own operators
IR_VERSION = 10


class Graph:
    """A graph in the making, over one weights file."""

    def __init__(self, file: WeightsFile, opset: int = OPSET, target: Target = CPU) -> None:
        self.file = file
        self.opset = opset
        self.target = target
        self.inputs: list[ir.Value] = []
        self.outputs: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self._constants: dict[str, ir.Value] = {}
        self._graph: ir.Graph | None = None

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self.inputs.append(value)
        return value

    def output(
        self, value: ir.Value, name: str, shape: Sequence[int | str], dtype: ir.DataType = ir.DataType.FLOAT
    ) -> None:
        value.name, value.shape, value.type = name, ir.Shape(shape), ir.TensorType(dtype)
        self.outputs.append(value)

    def node(
        self, kind: str, *inputs: ir.Value | None, domain: str = "", outputs: int = 1, **attributes: Any
    ) -> list[ir.Value]:
        """Add a node and return its outputs."""
        node = ir.node(kind, inputs, attributes, domain=domain, num_outputs=outputs, name=f"{kind}.{len(self.nodes)}")
        for index, value in enumerate(node.outputs):
            value.name = f"{node.name}.{index}"
        self.nodes.append(node)
        return list(node.outputs)

    def stored(self, name: str, region: Region, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.Value:
        """An initializer over a region of the weights file."""
        value = initializer(name, region, dtype, shape)
        self.initializers.append(value)
        return value

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """A small initializer inside the graph file itself; the same name is the same value.

        Of float32 it becomes the target's type.
        """
        if name in self._constants:
            return self._constants[name]
        if array.dtype == np.float32:
            array = self.target.cast(array)
        value = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            const_value=ir.tensor(array, name=name),
        )
        self.initializers.append(value)
        self._constants[name] = value
        return value

    def late_constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """A constant for a graph that is serialised already, to replace a node's input."""
        value = self.constant(name, array)
        if self._graph is not None:
            self._graph.initializers[name] = value
        return value

    def serialized(self, producer: str) -> bytes:
        """The model as it lies in its file. No node can be added to the graph any more."""
        if self._graph is None:
            self._graph = ir.Graph(
                self.inputs,
                self.outputs,
                nodes=self.nodes,
                initializers=self.initializers,
                opset_imports={"": self.opset, MICROSOFT: 1},
                name="model",
            )
        model = ir.Model(self._graph, ir_version=IR_VERSION, producer_name=producer)
        data: bytes = serde.serialize_model(model).SerializeToString()
        return data


def cast(graph: Graph, x: ir.Value, dtype: ir.DataType) -> ir.Value:
    """x, which has the target's type or float32, as `dtype`, one of these two. No node for a target of float32."""
    return x if graph.target.dtype == ir.DataType.FLOAT else graph.node("Cast", x, to=dtype)[0]


def pick(graph: Graph, x: ir.Value, positions: ir.Value) -> ir.Value:
    """Rows of x [B,S,H] at `positions` [B,R,1]: [B,R,H]."""
    return graph.node("GatherND", x, positions, batch_dims=1)[0]


def silu_gate(graph: Graph, gate: ir.Value, up: ir.Value) -> ir.Value:
    """silu(gate) · up"""
    (active,) = graph.node("QuickGelu", gate, domain=MICROSOFT, alpha=1.0)
    return graph.node("Mul", active, up)[0]


def gelu_gate(graph: Graph, gate: ir.Value, up: ir.Value) -> ir.Value:
    """gelu(gate) · up, with gelu's tanh form"""
    (active,) = graph.node("FastGelu", gate, domain=MICROSOFT)
    return graph.node("Mul", active, up)[0]


def scaled(graph: Graph, x: ir.Value, factor: float, name: str) -> ir.Value:
    """factor · x; the constant's name tells several apart. No node for a factor of 1."""
    if factor == 1.0:
        return x
    return graph.node("Mul", x, graph.constant(name, np.array(factor, np.float32)))[0]


def with_averages(graph: Graph, x: ir.Value, block: int, times: int) -> ir.Value:
    """x [B,S,K] followed by its averages over blocks of columns, so many times."""
    (blocks,) = graph.node("Reshape", x, graph.constant(f"blocks.{block}", np.array([0, 0, -1, block])))
    (averages,) = graph.node("ReduceMean", blocks, graph.constant("last_axis", np.array([-1])), keepdims=0)
    return graph.node("Concat", x, *[averages] * times, axis=-1)[0]
