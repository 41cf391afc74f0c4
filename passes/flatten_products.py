"""flatten-products: matrix products that run on integers are Gemms, whatever the rank of their input.

before   y = MatMul(x, W) + b          x (..., K), W (K, N), b (N)
after    y = Reshape(Gemm(Reshape(x, [-1, K]), W, b), [..., N])

A Gemm adds its bias to the integers; behind a MatMul the Add is one of floats, and onnxruntime puts it into
operators that are slower than those without (BiasGelu, SkipLayerNormalization).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from getac.onnx_graph.edit import (
    Array,
    add_initializer,
    array_of,
    insert_after,
    is_stored,
    set_input,
    unique_name,
)
from getac.onnx_graph.qdq import new_node
from getac.onnx_graph.shapes import Dim, open_shapes
from getac.pipeline import Effect, Fact, State
from getac.placement.placement import is_layer, place

__all__ = ["FlattenProducts"]

ZERO_IS_A_SIZE = 1
"""Reshape's allowzero where the shape is computed: an empty batch or sequence has a size of 0 in it.

Without it a 0 stands for the input's size. Stored shapes have no 0, and allowzero forbids it beside their -1.
"""


@dataclass(frozen=True)
class FlattenProducts:
    """Turns MatMul with a stored matrix, and the Add of a stored row behind it, into Gemm."""

    name: ClassVar[str] = "flatten-products"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.QUANTIZERS_FOLDED})
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset(
        {Fact.QUANTIZERS_FOLDED, Fact.BATCH_NORMS_FOLDED, Fact.SLICED, Fact.WEIGHTS_QUANTIZED}
    )
    effect: ClassVar[Effect] = Effect.NONE

    def run(self, state: State) -> None:
        graph = state.model.graph
        placed = place(graph, state.quantizers, state.calibrates, state.floats).integer
        products = [n for n in graph if n.op_type == "MatMul" and n in placed and is_layer(n)]
        products = [node for node in products if node.outputs[0] not in state.quantizers]
        if not products:
            return
        shapes = open_shapes(state.model, state.bindings)
        flattener = Flattener(graph)
        for node in products:
            x = node.inputs[0]
            dims = shapes.dims.get(x) if x is not None else None
            if dims is not None and len(dims) > 2:
                flattener.flatten(node, dims)


@dataclass
class Flattener:
    """Edits one graph; what several products of one input need is made once."""

    graph: ir.Graph
    flat: dict[ir.Value, ir.Value] = field(default_factory=dict)
    leading: dict[ir.Value, ir.Value] = field(default_factory=dict)
    shapes: dict[tuple[ir.Value, int], ir.Value] = field(default_factory=dict)

    def flatten(self, node: ir.Node, dims: Sequence[Dim]) -> None:
        x, weight = node.inputs[0], node.inputs[1]
        assert x is not None and weight is not None and weight.shape is not None
        inputs, units = weight.shape.numpy()
        end = bias_addition(node, units)
        shape = self.shape_behind(node, x, dims, units)
        node.replace_input_with(0, self.flat_input(node, x, inputs))
        node.op_type, product = "Gemm", node.outputs[0]
        product.shape = None
        if end is not None:
            set_input(node, 2, self.row(stored_operand(end), units))
            turn_into_reshape(end, product, shape)
        else:
            insert_after(node, self.reshape(product, shape, f"{product.name}.shaped"))
        product.name = unique_name(self.graph, f"{product.name}.flat")  # another shape, another name

    def flat_input(self, node: ir.Node, x: ir.Value, size: int) -> ir.Value:
        if x not in self.flat:
            target = add_initializer(self.graph, f"{x.name}.flat.shape", np.array([-1, size]))
            reshape = self.reshape(x, target, f"{x.name}.flat")
            self.graph.insert_before(node, reshape)
            self.flat[x] = reshape.outputs[0]
        return self.flat[x]

    def shape_behind(self, node: ir.Node, x: ir.Value, dims: Sequence[Dim], units: int) -> ir.Value:
        """The shape of the result: stored, where one size at most is open."""
        if (x, units) not in self.shapes:
            sizes = [dim.size if dim.is_static else -1 for dim in dims[:-1]]
            name = f"{node.outputs[0].name}.shape"
            if sizes.count(-1) < 2:
                self.shapes[x, units] = add_initializer(self.graph, name, np.array([*sizes, units]))
            else:
                self.shapes[x, units] = self.computed_shape(node, x, units, name)
        return self.shapes[x, units]

    def computed_shape(self, node: ir.Node, x: ir.Value, units: int, name: str) -> ir.Value:
        if x not in self.leading:
            sizes = new_node(self.graph, "Shape", [x], f"{x.name}.sizes", ir.DataType.INT64, end=-1)
            self.graph.insert_before(node, sizes)
            self.leading[x] = sizes.outputs[0]
        last = add_initializer(self.graph, f"{name}.last", np.array([units]))
        joined = new_node(self.graph, "Concat", [self.leading[x], last], name, ir.DataType.INT64, axis=0)
        self.graph.insert_before(node, joined)
        return joined.outputs[0]

    def reshape(self, x: ir.Value, shape: ir.Value, name: str) -> ir.Node:
        zero = 0 if is_stored(shape) else ZERO_IS_A_SIZE
        return new_node(self.graph, "Reshape", [x, shape], name, ir.DataType.FLOAT, allowzero=zero)

    def row(self, bias: ir.Value, units: int) -> ir.Value:
        """A stored bias of shape (units,), made of one with leading sizes of 1."""
        array: Array = array_of(bias)
        if array.ndim == 1:
            return bias
        return add_initializer(self.graph, f"{bias.name}.row", array.reshape(units))


def bias_addition(node: ir.Node, units: int) -> ir.Node | None:
    """The Add of a stored row that alone reads the product."""
    product = node.outputs[0]
    users = [user for user, _ in product.uses()]
    if product.is_graph_output() or len(users) != 1:
        return None
    add = users[0]
    if add.op_type != "Add" or add.domain not in ("", "ai.onnx") or add.graph is not node.graph:
        return None
    bias = stored_operand(add)
    shape = () if bias.shape is None else tuple(bias.shape.numpy())
    is_row = is_stored(bias) and shape[-1:] == (units,) and set(shape[:-1]) <= {1} and len(shape) <= 2
    return add if is_row and bias.dtype is ir.DataType.FLOAT else None


def stored_operand(add: ir.Node) -> ir.Value:
    """The stored one of two operands; if none is, the second."""
    first, second = add.inputs
    found = first if is_stored(first) else second
    assert found is not None
    return found


def turn_into_reshape(add: ir.Node, product: ir.Value, shape: ir.Value) -> None:
    """The addition becomes the Reshape, so that its output stays, with all that is known of it."""
    add.op_type = "Reshape"
    add.replace_input_with(0, product)
    add.replace_input_with(1, shape)
    if not is_stored(shape):
        add.attributes["allowzero"] = ir.AttrInt64("allowzero", ZERO_IS_A_SIZE)
