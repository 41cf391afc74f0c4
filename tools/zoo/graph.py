"""A graph of ONNX nodes that grows one operator at a time, and knows the shape of every value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION, BATCH = 21, 10, "N"


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its name, and its shape without the (symbolic) batch dimension."""

    name: str
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        return self.shape[0]


class Graph:
    """The nodes, initializers and inputs so far; nodes are named after their operator and position."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, *shape: int, dtype: int = TensorProto.FLOAT) -> Value:
        self._inputs.append(_value_info(Value(name, shape), dtype))
        return Value(name, shape)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Adds an initializer; constants of the same name are one constant."""
        self._initializers.setdefault(name, numpy_helper.from_array(value, name))
        return name

    def emit_all(
        self, op: str, inputs: Sequence[Value | str], shapes: Sequence[tuple[int, ...]], **attributes: Any
    ) -> list[Value]:
        """Adds a node with one output per shape."""
        name = self.next_name(op)
        outputs = [name] if len(shapes) == 1 else [f"{name}_{i}" for i in range(len(shapes))]
        names = [value if isinstance(value, str) else value.name for value in inputs]
        self._nodes.append(helper.make_node(op, names, outputs, name=name, **attributes))
        return [Value(output, shape) for output, shape in zip(outputs, shapes, strict=True)]

    def emit(
        self, op: str, inputs: Sequence[Value | str], shape: tuple[int, ...], **attributes: Any
    ) -> Value:
        """Adds a node with one output."""
        return self.emit_all(op, inputs, [shape], **attributes)[0]

    def build(self, *outputs: Value) -> onnx.ModelProto:
        """Closes the graph; the outputs keep the names of the nodes that make them."""
        graph = helper.make_graph(
            self._nodes,
            self._name,
            self._inputs,
            [_value_info(value) for value in outputs],
            list(self._initializers.values()),
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="getac-zoo"
        )

    def next_name(self, op: str) -> str:
        return f"{op.lower()}_{len(self._nodes)}"

    def parameter(self, op: str, role: str, value: NDArray[Any], dtype: type = np.float32) -> str:
        """Adds a parameter of the node that comes next."""
        return self.constant(f"{self.next_name(op)}.{role}", np.ascontiguousarray(value, dtype))


def _value_info(value: Value, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, dtype, [BATCH, *value.shape])
