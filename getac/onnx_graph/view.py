"""The analysis' view of an ONNX graph (see `getac.view`)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from getac.axes.reasons import Reason
from getac.onnx_graph.operators import rule_of
from getac.onnx_graph.shapes import Shapes, infer_shapes
from getac.rules.base import Rule
from getac.view import Array

OPSET = 21

__all__ = ["FLOATS", "OnnxNode", "OnnxView", "evaluator"]

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class OnnxNode:
    """A node of an ONNX graph; see `getac.view.NodeView`."""

    node: ir.Node
    rule: Rule | None
    refusal: Reason | None
    dtypes: Mapping[ir.Value, ir.DataType]

    @classmethod
    def of(cls, node: ir.Node, shapes: Shapes) -> OnnxNode:
        found = rule_of(node, shapes)
        rule, refusal = (found, None) if isinstance(found, Rule) else (None, found)
        return cls(node, rule, refusal, shapes.dtypes)

    @property
    def identity(self) -> Hashable:
        return self.node

    @property
    def name(self) -> str:
        return self.node.name or self.node.op_type

    @property
    def operator(self) -> str:
        domain = self.node.domain
        return self.node.op_type if domain in ("", "ai.onnx") else f"{domain}::{self.node.op_type}"

    @cached_property
    def signature(self) -> Hashable:
        return (
            self.operator,
            tuple(sorted((name, str(a.value)) for name, a in self.node.attributes.items())),
            tuple(map(self._dtype, [*self.node.inputs, *self.node.outputs])),
        )

    def _dtype(self, value: ir.Value | None) -> np.dtype[np.generic]:
        """The type to compute with: float32 for all floats, integers and truth values as they are."""
        dtype = None if value is None else self.dtypes.get(value)
        exact = dtype is not None and not dtype.is_floating_point()
        return dtype.numpy() if dtype is not None and exact else np.dtype(np.float32)

    @property
    def inputs(self) -> Sequence[Hashable | None]:
        return self.node.inputs

    @property
    def outputs(self) -> Sequence[Hashable]:
        return self.node.outputs

    @cached_property
    def captured(self) -> Sequence[Hashable]:
        graphs = [a.as_graph() for a in self.node.attributes.values() if a.type == ir.AttributeType.GRAPH]
        for attribute in self.node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPHS:
                graphs.extend(attribute.as_graphs())
        return [value for graph in graphs for value in values_from_outside(graph)]

    def entries(self, index: int) -> Sequence[int | Hashable] | None:
        """ONNX keeps lists of sizes in tensors."""
        return None

    def evaluate(self, inputs: Sequence[Array | None]) -> Array:
        """Runs the operator by ONNX's reference implementation, floats in float32."""
        if self.node.op_type in ("Cast", "CastLike"):
            return np.asarray(inputs[0]).astype(self._dtype(self.node.outputs[0]))
        # Arrays of one dimension at least: some reference implementations return no array otherwise.
        arrays = {
            f"x{i}": np.atleast_1d(array).astype(self._dtype(self.node.inputs[i]))
            for i, array in enumerate(inputs)
            if array is not None
        }
        names = ["" if array is None else f"x{i}" for i, array in enumerate(inputs)]
        node = onnx.helper.make_node(self.node.op_type, names, ["y"], domain=self.node.domain)
        node.attribute.extend(ir.serde.serialize_attribute(a) for a in self.node.attributes.values())
        result = evaluator(node, arrays).run(None, arrays)[0]  # type: ignore[index]
        return np.asarray(result).reshape(
            np.broadcast_shapes(*(np.shape(array) for array in inputs if array is not None))
        )


def evaluator(node: onnx.NodeProto, feeds: Mapping[str, Array]) -> ReferenceEvaluator:
    """The reference implementation of one node, typed so that operators defined as functions expand."""
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in feeds.items()
    ]
    outputs = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
    graph = onnx.helper.make_graph([node], "node", inputs, outputs)
    opset = onnx.helper.make_opsetid("", OPSET)
    return ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=[opset]))


def values_from_outside(graph: ir.Graph) -> list[ir.Value]:
    """The values that a subgraph reads from the graphs around it."""
    inside: set[ir.Value] = set(graph.inputs) | set(graph.initializers.values())
    read: list[ir.Value] = list(graph.outputs)
    for node in graph.all_nodes():
        inside.update(node.outputs)
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                inner = attribute.as_graph()
                inside.update(inner.inputs, inner.initializers.values())
                read.extend(inner.outputs)
        read.extend(value for value in node.inputs if value is not None)
    return [value for value in dict.fromkeys(read) if value not in inside]


class OnnxView:
    """An ONNX graph as the analysis sees it; see `getac.view.GraphView`.

    Args:
        model: Opset 21, functions inlined, constants in initializers, nodes sorted.
        shapes: The shapes of its values.
    """

    def __init__(self, model: ir.Model, shapes: Shapes) -> None:
        self.model = model
        self.shapes = shapes
        self._sizes: dict[ir.Value, tuple[int, ...] | None] = {}  # what was asked for: it is asked for often
        self.nodes: Sequence[OnnxNode] = [OnnxNode.of(node, shapes) for node in model.graph]
        self.inputs: Sequence[Hashable] = list(model.graph.inputs)
        self.outputs: Sequence[Hashable] = list(model.graph.outputs)
        stored = model.graph.initializers.values()  # a pass may have left behind what nothing reads
        self.parameters: Sequence[Hashable] = [v for v in stored if v.uses() or v.is_graph_output()]

    def name_of(self, value: Hashable) -> str:
        assert isinstance(value, ir.Value)
        return value.name or "?"

    def sizes(self, value: Hashable) -> tuple[int, ...] | None:
        assert isinstance(value, ir.Value)
        if value not in self._sizes:
            self._sizes[value] = self.shapes.sizes(value)
        return self._sizes[value]

    @cached_property
    def _sample_shapes(self) -> Shapes:
        first = {dim for value in self.model.graph.inputs for dim in self.shapes.dims.get(value, ())[:1]}
        batch = {symbol for dim in first for symbol in dim.symbols}
        declared = (value.shape[0] for value in self.model.graph.inputs if value.shape)
        batch |= {str(dim.value) for dim in declared if isinstance(dim, ir.SymbolicDim)}  # found equal or not
        sizes = {name: 1 if name in batch else size for name, size in self.shapes.symbols.items()}
        return infer_shapes(self.model, sizes)

    def sizes_per_sample(self, value: Hashable) -> tuple[int, ...] | None:
        assert isinstance(value, ir.Value)
        return self._sample_shapes.sizes(value)

    def is_float(self, value: Hashable) -> bool:
        assert isinstance(value, ir.Value)
        return self.shapes.dtypes.get(value) in FLOATS

    def storage_bits(self, parameter: Hashable) -> int:
        assert isinstance(parameter, ir.Value) and parameter.const_value is not None
        return parameter.const_value.dtype.bitwidth

    def small_constant(self, value: Hashable) -> Array | None:
        assert isinstance(value, ir.Value)
        return self.shapes.constants.get(value)

    def array(self, parameter: Hashable) -> Array:
        assert isinstance(parameter, ir.Value) and parameter.const_value is not None
        return parameter.const_value.numpy()
