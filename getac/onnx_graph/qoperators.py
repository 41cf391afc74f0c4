"""Operators that compute on integers, as float operators between DequantizeLinear and QuantizeLinear.

    QLinearConv(x, s_x, z_x, w, s_w, z_w, s_y, z_y, b) = Q(Conv(DQ(x), DQ(w), DQ(b)); s_y, z_y)

One entry per operator: ONNX QLinearConv-10, QLinearMatMul-10/21; onnxruntime's com.microsoft QGemm,
QLinearAdd, QLinearMul, QLinearSigmoid, QLinearLeakyRelu, QLinearSoftmax, QLinearAveragePool,
QLinearGlobalAveragePool, QLinearConcat (version 1). The integers agree to within the rounding of the last
step: integer kernels multiply by s_x s_w / s_y, floats divide by s_y. MatMulNBits (version 1) has floats on
both sides, and its weights are exactly those of a DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from getac.onnx_graph.edit import Array, add_initializer, array_of, is_stored, unique_name
from getac.onnx_graph.integer_lattice import Refused, float_name
from getac.onnx_graph.nbits import blocked_weights

__all__ = ["DYNAMIC", "QOPERATORS", "Expansion", "Refused", "expand", "is_qoperator", "put_in_place"]

STANDARD, MICROSOFT = ("", "ai.onnx"), ("com.microsoft",)
Value = ir.Value | None

DYNAMIC = "getac.dynamic"
"""Marks a stored weight, in its `meta`, whose layer quantized its activations as it ran."""


@dataclass
class Expansion:
    """The nodes that an operator becomes, in the order in which they compute; not yet in the graph."""

    node: ir.Node
    nodes: list[ir.Node] = field(default_factory=list)

    @property
    def graph(self) -> ir.Graph:
        assert isinstance(self.node.graph, ir.Graph)
        return self.node.graph

    def given(self, index: int) -> Value:
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def dequantize(self, index: int, axis: int | None = None) -> ir.Value:
        """The floats of an input whose scale and zero point follow it."""
        x, scale, zero = (self.given(index + offset) for offset in range(3))
        return self.dequantized(x, scale, zero, axis)

    def dequantized(self, x: Value, scale: Value, zero: Value, axis: int | None = None) -> ir.Value:
        if x is None or scale is None:
            raise Refused("an input or its scale is missing")
        if not is_stored(scale) or not (zero is None or is_stored(zero)):
            raise Refused("a scale or zero point is computed when the graph runs")
        size = array_of(scale).size
        if size > 1 and axis is None:
            raise Refused("an activation with a scale per channel")
        attributes = {} if size == 1 or axis is None else {"axis": axis}
        inputs = [x, self.flat(scale, size), *([] if zero is None else [self.flat(zero, size)])]
        return self.add("DequantizeLinear", inputs, attributes, f"{float_name(str(x.name))}.dq")

    def quantize(self, x: ir.Value, index: int) -> ir.Value:
        """The integers of a result, by the scale and zero point among the inputs."""
        scale, zero = self.given(index), self.given(index + 1)
        if not is_stored(scale) or not (zero is None or is_stored(zero)):
            raise Refused("the scale or zero point of its result is computed when the graph runs")
        inputs = [x, self.flat(scale, 1), *([] if zero is None else [self.flat(zero, 1)])]
        x.name = unique_name(self.graph, float_name(str(self.node.outputs[0].name)))
        return self.add("QuantizeLinear", inputs)

    def bias(self, index: int, *scales: int) -> list[ir.Value]:
        """The floats of an INT32 bias, whose scale is the product of others; none where there is none."""
        integers = self.given(index)
        if integers is None:
            return []
        factors = [self.given(position) for position in scales]
        if not all(is_stored(one) for one in factors):
            raise Refused("a scale is computed when the graph runs")
        product = np.prod([array_of(one).reshape(-1).astype(np.float32) for one in factors[:1]], axis=0)
        for one in factors[1:]:
            product = product * array_of(one).reshape(-1).astype(np.float32)
        scale = self.constant("bias_scale", product if product.size > 1 else product.reshape(()))
        zero = self.constant("bias_zero", np.zeros(product.shape if product.size > 1 else (), np.int32))
        return [self.dequantized(integers, scale, zero, axis=0)]

    def flat(self, value: Value, size: int) -> ir.Value:
        """Scales of one number are scalars, whatever shape the file gives them; others are rows."""
        assert value is not None
        array = array_of(value)
        wanted = () if size == 1 else (size,)
        if array.shape == wanted:
            return value
        if array.size == 1 and size > 1:
            return self.constant(f"{value.name}", np.full(wanted, array.reshape(-1)[0], array.dtype))
        if array.size != size:
            raise Refused(f"{array.size} zero points for {size} scales")
        return self.constant(f"{value.name}", array.reshape(wanted))

    def constant(self, name: str, array: Array) -> ir.Value:
        return add_initializer(self.graph, f"{self.label}.{name}", array)

    @property
    def label(self) -> str:
        return self.node.name or self.node.op_type

    def add(
        self,
        op_type: str,
        inputs: Sequence[Value],
        attributes: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> ir.Value:
        node = ir.node(op_type, inputs, attributes or {})
        node.name = unique_name(self.graph, name or f"{self.label}.{op_type.lower()}.{len(self.nodes)}")
        node.outputs[0].name = node.name
        self.nodes.append(node)
        return node.outputs[0]

    def attributes(self, *names: str) -> dict[str, Any]:
        """Attributes that the float operator takes over."""
        return {name: self.node.attributes[name] for name in names if name in self.node.attributes}


Rule = Callable[[Expansion], ir.Value]


def convolution(e: Expansion) -> ir.Value:
    names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    inputs = [e.dequantize(0), e.dequantize(3, axis=0), *e.bias(8, 1, 4)]
    return e.quantize(e.add("Conv", inputs, e.attributes(*names)), 6)


def matrix_product(e: Expansion) -> ir.Value:
    weight = e.given(3)
    rank = len(weight.shape) if weight is not None and weight.shape is not None else 2
    return e.quantize(e.add("MatMul", [e.dequantize(0), e.dequantize(3, axis=rank - 1)]), 6)


def gemm(e: Expansion) -> ir.Value:
    """alpha (A B + C): the bias is added before alpha scales the sum."""
    transposed = e.node.attributes.get_int("transB", 0)
    alpha = e.node.attributes.get_float("alpha", 1.0)
    attributes = {**e.attributes("alpha", "transA", "transB"), **({"beta": alpha} if alpha != 1 else {})}
    inputs = [e.dequantize(0), e.dequantize(3, axis=0 if transposed else 1), *e.bias(6, 1, 4)]
    y = e.add("Gemm", inputs, attributes)
    return e.quantize(y, 7) if e.given(7) is not None else y


def binary(op_type: str) -> Rule:
    return lambda e: e.quantize(e.add(op_type, [e.dequantize(0), e.dequantize(3)]), 6)


def unary(op_type: str, *names: str) -> Rule:
    return lambda e: e.quantize(e.add(op_type, [e.dequantize(0)], e.attributes(*names)), 3)


def softmax(e: Expansion) -> ir.Value:
    if e.node.attributes.get_int("opset", 13) < 13:
        raise Refused("a softmax over several dimensions at once, as before opset 13")
    return unary("Softmax", "axis")(e)


def pool(op_type: str, *names: str) -> Rule:
    def rule(e: Expansion) -> ir.Value:
        if e.node.attributes.get_int("channels_last", 0):
            raise Refused("its channels come last")
        return unary(op_type, *names)(e)

    return rule


def concat(e: Expansion) -> ir.Value:
    parts = [e.dequantize(index) for index in range(2, len(e.node.inputs), 3)]
    return e.quantize(e.add("Concat", parts, e.attributes("axis")), 0)


def blocked_product(e: Expansion) -> ir.Value:
    """x (..., K) times weights that are packed in blocks of K, each with a scale and a zero point."""
    weights = blocked_weights(e.node)
    inputs = [
        e.constant("weight", weights.integers),
        e.constant("scale", weights.scales),
        e.constant("zero_point", weights.zeros),
    ]
    restored = e.add("DequantizeLinear", inputs, {"axis": 0, "block_size": weights.block})
    y = e.add("MatMul", [e.given(0), restored])
    return y if e.given(5) is None else e.add("Add", [y, e.given(5)])


POOLING = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")

QOPERATORS: Mapping[str, tuple[tuple[str, ...], Rule]] = {
    "QLinearConv": (STANDARD, convolution),
    "QLinearMatMul": (STANDARD, matrix_product),
    "QGemm": (MICROSOFT, gemm),
    "QLinearAdd": (MICROSOFT, binary("Add")),
    "QLinearMul": (MICROSOFT, binary("Mul")),
    "QLinearSigmoid": (MICROSOFT, unary("Sigmoid")),
    "QLinearLeakyRelu": (MICROSOFT, unary("LeakyRelu", "alpha")),
    "QLinearSoftmax": (MICROSOFT, softmax),
    "QLinearAveragePool": (MICROSOFT, pool("AveragePool", *POOLING)),
    "QLinearGlobalAveragePool": (MICROSOFT, pool("GlobalAveragePool")),
    "QLinearConcat": (MICROSOFT, concat),
    "MatMulNBits": (MICROSOFT, blocked_product),
}


def is_qoperator(node: ir.Node) -> bool:
    return node.op_type in QOPERATORS and node.domain in QOPERATORS[node.op_type][0]


def expand(node: ir.Node) -> Expansion:
    """The nodes that an operator stands for; the last one makes its result.

    Raises:
        Refused: Why it cannot be written so.
    """
    expansion = Expansion(node)
    QOPERATORS[node.op_type][1](expansion)
    return expansion


def put_in_place(node: ir.Node, expansion: Expansion) -> None:
    """The last node of an expansion makes what a node made, under its name; what computes has the node's."""
    graph, old, new = expansion.graph, node.outputs[0], expansion.nodes[-1].outputs[0]
    graph.insert_before(node, expansion.nodes)
    new.type, new.shape, name = old.type, old.shape, old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    new.name = name
    computing = [one for one in expansion.nodes if one.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    computing[0].name = node.name
