"""fold-constants: what is computed from stored tensors and fixed sizes alone becomes a stored tensor.

    before   y = MatMul(x, Transpose(W))        y = Conv(x, W, Expand(CastLike(0, x), Shape(W)))
    after    y = MatMul(x, W')                  y = Conv(x, W, 0)

    before   y = Gemm(x, Mul(g, Div(V, ReduceL2(V))))
    after    y = Gemm(x, W')

Exporters write such branches (torch's, for a bias that is not there, and for weight norms). It runs after
the quantizers were folded: a branch with a quantizer in it must be recognised, not computed. A size that a
tracing exporter computes from another becomes a number of its own: `width // heads` would tie the heads to
the width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from getac.onnx_graph.edit import add_initializer, array_of, is_stored
from getac.onnx_graph.shapes import Shapes
from getac.onnx_graph.view import evaluator
from getac.pipeline import Fact, Refusal, State
from getac.quantizer import Quantizer

__all__ = ["FoldConstants"]

Array = npt.NDArray[Any]

FOLDED = {"Add", "Cast", "Concat", "ConstantOfShape", "Div", "Exp", "Expand", "Flatten", "Gather", "Identity"}
FOLDED |= {"Mul", "Neg", "Pow", "Reciprocal", "Reshape", "Shape", "Slice", "Sqrt", "Squeeze", "Sub"}
FOLDED |= {"Transpose", "Unsqueeze"}
REDUCTIONS = {"ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"}
FOLDED |= REDUCTIONS  # the lengths of weight norms
RESHAPING = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
MOST_ENTRIES = 1 << 22
"""Larger results, and sums of more, are left to run time, except for a transposition, which is no larger than
what it reads."""


@dataclass(frozen=True)
class FoldConstants:
    """Computes float branches that feed layers, element-wise operators and the like, and fixed sizes."""

    name: ClassVar[str] = "fold-constants"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.QUANTIZERS_FOLDED, Fact.SHAPES})
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset(
        {Fact.QUANTIZERS_FOLDED, Fact.BATCH_NORMS_FOLDED, Fact.SLICED}
    )

    def run(self, state: State) -> None:
        graph = state.model.graph
        assert state.shapes is not None
        known = Known(state.shapes)
        for node in list(graph):
            if node.domain not in ("", "ai.onnx") or len(node.outputs) != 1:
                continue
            if node.graph is None:
                continue  # one before it does the same
            if node.op_type == "CastLike":
                to_cast(node, state.shapes)
            if node.op_type == "Transpose":
                merge_alike(node)
            reason = known.visit(node, state)
            if reason:
                state.refuse(self.name, Refusal(node.name or node.op_type, reason))


def to_cast(node: ir.Node, shapes: Shapes) -> None:
    """CastLike(x, y) only needs the type of y."""
    like = node.inputs[1]
    dtype = shapes.dtypes.get(like) if like is not None else None
    if dtype is not None:
        node.op_type = "Cast"
        node.resize_inputs(1)
        node.attributes.clear()
        node.attributes["to"] = ir.AttrInt64("to", int(dtype))


def merge_alike(node: ir.Node) -> None:
    """Other transpositions of the same stored tensor go: a layer that runs several times has as many."""
    x, graph = node.inputs[0], node.graph
    assert isinstance(graph, ir.Graph)
    for other, _ in list(x.uses()) if x is not None and is_stored(x) else ():
        alike = other.op_type == "Transpose" and permutation(other) == permutation(node)
        if other is node or other.graph is not graph or not alike or other.outputs[0].is_graph_output():
            continue
        for user, index in list(other.outputs[0].uses()):
            user.replace_input_with(index, node.outputs[0])
        graph.remove(other, safe=True)


def permutation(node: ir.Node) -> Sequence[int] | None:
    given = node.attributes.get("perm")
    return given.as_ints() if given else None


@dataclass
class Known:
    """What is known so far: computed integers and intermediate floats."""

    shapes: Shapes
    arrays: dict[ir.Value, Array] = field(default_factory=dict)

    def visit(self, node: ir.Node, state: State) -> str | None:
        """Computes a node of which all is known; the reason if it should be and cannot."""
        small = self.shapes.constants.get(node.outputs[0])
        quantized = any(value in state.quantizers for value in node.inputs)
        if small is not None and small.dtype.kind in "fi" and node.op_type != "CastLike" and not quantized:
            replace(node, small)  # a size, or a scale that is computed from one
            return None
        if node.op_type not in FOLDED or not all(self.is_known(node, value) for value in node.inputs):
            return None
        weight = node.inputs[0] if node.inputs else None
        if self.is_too_large(node):
            return None
        if quantized and node.op_type not in (*RESHAPING, "Transpose"):
            return "a quantized tensor is rearranged when the graph runs"
        if (quantized or node.op_type == "Transpose") and weight is not None and len(weight.uses()) > 1:
            return "the tensor that is rearranged has other readers, and would be stored twice"
        result = self.compute(node)
        record = state.quantizers.get(weight) if weight is not None else None
        if record is not None and weight is not None:
            record = rearranged(record, node, array_of(weight).shape, result.shape)
            if record is None:
                return "a quantized tensor is rearranged, and its steps with it"
        self.arrays[node.outputs[0]] = result
        if result.dtype.kind == "f":
            stored = replace(node, result)
            if record is not None:
                state.quantizers[stored] = record
        return None

    def is_known(self, node: ir.Node, value: ir.Value | None) -> bool:
        if node.op_type == "Shape" and value is not None:
            dims = self.shapes.dims.get(value)
            return dims is not None and all(dim.is_static for dim in dims)
        return value is None or value in self.arrays or is_stored(value)

    def is_too_large(self, node: ir.Node) -> bool:
        read = node.inputs[:1] if node.op_type in REDUCTIONS else ()
        counted = [self.shapes.sizes(value) for value in (*node.outputs, *read) if value is not None]
        if node.op_type == "Transpose":
            return None in counted
        return any(sizes is None or math.prod(sizes) > MOST_ENTRIES for sizes in counted)

    def compute(self, node: ir.Node) -> Array:
        """ONNX's reference implementation; of a Shape, the sizes."""
        if node.op_type == "Transpose":
            return np.transpose(array_of(node.inputs[0]), permutation(node))
        feeds = {f"x{i}": self.array(node, v) for i, v in enumerate(node.inputs) if v is not None}
        names = ["" if value is None else f"x{i}" for i, value in enumerate(node.inputs)]
        proto = onnx.helper.make_node(node.op_type, names, ["y"])
        proto.attribute.extend(ir.serde.serialize_attribute(a) for a in node.attributes.values())
        return np.asarray(evaluator(proto, feeds).run(None, feeds)[0])  # type: ignore[index]

    def array(self, node: ir.Node, value: ir.Value) -> Array:
        if node.op_type == "Shape":
            return np.zeros(self.shapes.sizes(value) or (), dtype=np.bool_)  # only its shape is read
        return self.arrays[value] if value in self.arrays else array_of(value)


def rearranged(
    record: Quantizer, node: ir.Node, before: tuple[int, ...], after: tuple[int, ...]
) -> Quantizer | None:
    """The record of a tensor in another order or shape; None where its steps are of no dimension any more."""
    if record.axis is None:
        return record
    if node.op_type == "Transpose":
        order = list(permutation(node) or reversed(range(len(before))))
        step = record.step if record.block is None else record.step.transpose(order)
        return Quantizer(step, record.low, record.high, order.index(record.axis), record.block)
    if record.block is not None:
        return None
    outside, size = math.prod(before[: record.axis]), before[record.axis]
    for axis, length in enumerate(after):
        if length == size and math.prod(after[:axis]) == outside:
            return replace_axis(record, axis)
    return None


def replace_axis(record: Quantizer, axis: int) -> Quantizer:
    return Quantizer(record.step, record.low, record.high, axis)


def replace(node: ir.Node, result: Array) -> ir.Value:
    """Stores a node's result in its place.

    A tensor that nobody else reads keeps its name: people know their parameters by it.
    """
    graph, output = node.graph, node.outputs[0]
    assert isinstance(graph, ir.Graph)
    sources = [value for value in node.inputs if value is not None and is_stored_float(value)]
    users = list(output.uses())
    if not output.is_graph_output():
        for user, index in users:
            user.replace_input_with(index, None)
        graph.remove(node, safe=True)
    alike = [value for value in sources if array_of(value).shape == result.shape]
    name = free_name(graph, sources if len(sources) == 1 else alike)
    stored = add_initializer(graph, name or f"{output.name}.folded", result)
    for user, index in users:
        user.replace_input_with(index, stored)
    return stored


def is_stored_float(value: ir.Value) -> bool:
    return is_stored(value) and value.dtype is not None and value.dtype.is_floating_point()


def free_name(graph: ir.Graph, sources: list[ir.Value]) -> str | None:
    """The name of the one stored tensor that a result was made of (of that shape, if there were several),
    once nothing else reads it."""
    if len(sources) != 1 or sources[0].uses() or sources[0].is_graph_output():
        return None
    graph.initializers.pop(str(sources[0].name))
    return sources[0].name
