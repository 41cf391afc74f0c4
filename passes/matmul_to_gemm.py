"""matmul-to-gemm: a matrix product of rank 2 and the addition of its bias are one Gemm.

    before   y = x @ W + b      x (N, K), W (K, M), b (M)
    after    y = Gemm(x, W, b)

onnxruntime fuses the two by itself when it loads a model; by then it is too late for an integer bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from getac.onnx_graph.edit import is_stored
from getac.onnx_graph.shapes import Shapes
from getac.pipeline import Fact, State

__all__ = ["MatMulToGemm"]


@dataclass(frozen=True)
class MatMulToGemm:
    """Turns MatMul with a stored matrix, and the Add of a stored vector behind it, into Gemm."""

    name: ClassVar[str] = "matmul-to-gemm"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.SHAPES, Fact.QUANTIZERS_FOLDED})
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset(
        {Fact.QUANTIZERS_FOLDED, Fact.BATCH_NORMS_FOLDED, Fact.SLICED, Fact.CALIBRATED}
    )

    def run(self, state: State) -> None:
        graph = state.model.graph
        assert state.shapes is not None
        for node in list(graph):
            if is_operator(node, "MatMul"):
                add = bias_addition(node, state.shapes)
                if add is not None and node.outputs[0] not in state.quantizers:
                    merge(node, add)


def bias_addition(node: ir.Node, shapes: Shapes) -> ir.Node | None:
    """The Add of a stored vector that alone reads the product of two matrices."""
    x, weight, product = node.inputs[0], node.inputs[1], node.outputs[0]
    if x is None or weight is None or not is_stored(weight) or product.is_graph_output():
        return None
    sizes = shapes.sizes(weight) or ()
    users = [user for user, _ in product.uses()]
    if len(shapes.sizes(x) or ()) != 2 or len(sizes) != 2 or len(users) != 1:
        return None
    if not is_operator(users[0], "Add") or users[0].graph is not node.graph:
        return None  # an addition inside a branch of an If runs only where that branch is taken
    bias = other_operand(users[0], product)
    is_row = is_stored(bias) and bias is not None and shapes.sizes(bias) in [sizes[1:], (1, sizes[1])]
    return users[0] if is_row else None


def is_operator(node: ir.Node, op_type: str) -> bool:
    return node.op_type == op_type and node.domain in ("", "ai.onnx")


def other_operand(add: ir.Node, product: ir.Value) -> ir.Value | None:
    return add.inputs[1] if add.inputs[0] is product else add.inputs[0]


def merge(node: ir.Node, add: ir.Node) -> None:
    """The addition becomes the Gemm, so that its output stays, with all that is known of it."""
    assert isinstance(node.graph, ir.Graph)
    inputs = [node.inputs[0], node.inputs[1], other_operand(add, node.outputs[0])]
    add.op_type = "Gemm"
    add.resize_inputs(3)
    for index, value in enumerate(inputs):
        add.replace_input_with(index, value)
    name = node.name
    node.graph.remove(node, safe=True)
    add.name = name
