"""expand-qoperators: operators on integers become float operators between Q and DQ.

before   x_q -> QLinearConv(...) -> y_q -> MaxPool -> z_q -> DequantizeLinear -> z
after    x_q -> DQ -> Conv(DQ(w_q), DQ(b_q)) -> Q -> y_q -> DQ -> MaxPool -> Q -> z_q -> DQ -> z

The form in which fold-quantizers makes records of them, and in which units can be removed. Operators that
only rearrange integers (MaxPool, Reshape, Concat of one scale ...) are put between a pair of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from getac.onnx_graph.edit import array_of, is_stored, naming, unique_name
from getac.onnx_graph.integer_lattice import float_name
from getac.onnx_graph.qoperators import Expansion, Refused, expand, is_qoperator, put_in_place
from getac.onnx_graph.rearranging import REARRANGING
from getac.onnx_graph.settled import settle_parameters
from getac.pipeline import Effect, Fact, Refusal, State

__all__ = ["ExpandQOperators"]

ON_INTEGERS = REARRANGING | {"MaxPool", "Concat"}


@dataclass(frozen=True)
class ExpandQOperators:
    """Writes operators on integers (QLinearConv, QGemm ...) as float operators between Q and DQ."""

    name: ClassVar[str] = "expand-qoperators"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset()
    effect: ClassVar[Effect] = Effect.KERNELS

    def run(self, state: State) -> None:
        settle_parameters(state.model)
        with naming(state.model.graph):
            for node in list(state.model.graph):
                self.expand(node, state)

    def expand(self, node: ir.Node, state: State) -> None:
        try:
            if is_qoperator(node):
                put_in_place(node, expand(node))
            elif node.op_type in ON_INTEGERS and node.domain in ("", "ai.onnx"):
                lift(node)
        except Refused as refused:
            state.refuse(self.name, Refusal(node.name or node.op_type, str(refused), "it stays as it is"))


def lift(node: ir.Node) -> None:
    """Puts an operator that rearranges integers between DQ and Q of their scale."""
    data = list(node.inputs) if node.op_type == "Concat" else list(node.inputs[:1])
    makers = [value.producer() if value is not None else None for value in data]
    first = makers[0]
    if first is None or not all(one is not None and one.op_type == "QuantizeLinear" for one in makers):
        return
    if not all(same_numbers(one, first) for one in makers if one is not None):
        raise Refused("it joins integers of different scales")
    expansion = Expansion(node)
    scale, zero = first.inputs[1], first.inputs[2] if len(first.inputs) > 2 else None
    floats = [expansion.dequantized(value, scale, zero) for value in data]
    graph = expansion.graph
    graph.insert_before(node, expansion.nodes)
    for index, value in enumerate(floats):
        node.replace_input_with(index, value)
    for output in list(node.outputs):
        requantize(node, output, scale, zero)


def requantize(node: ir.Node, output: ir.Value, scale: ir.Value | None, zero: ir.Value | None) -> None:
    users = list(output.uses())
    after = Expansion(node)
    integers = after.add("QuantizeLinear", [output, scale, *([] if zero is None else [zero])])
    after.graph.insert_after(node, after.nodes)
    integers.type, integers.shape, name = output.type, output.shape, output.name
    for user, index in users:
        user.replace_input_with(index, integers)
    for position, value in enumerate(after.graph.outputs):
        if value is output:
            after.graph.outputs[position] = integers
    integers.name = name
    output.name = unique_name(after.graph, float_name(str(name)))
    output.type = ir.TensorType(ir.DataType.FLOAT)


def same_numbers(one: ir.Node, other: ir.Node) -> bool:
    """Whether two QuantizeLinear nodes have one scale and one zero point."""
    pairs = list(zip(one.inputs[1:], other.inputs[1:], strict=False))
    stored = all(is_stored(a) and is_stored(b) for a, b in pairs)
    return (
        stored
        and len(one.inputs) == len(other.inputs)
        and all(np.array_equal(array_of(a), array_of(b)) for a, b in pairs)
    )
