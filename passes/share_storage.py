"""share-storage: equal tensors are stored once, and what is made of others is not stored at all.

before   Gather(T_int, rows)       MatMul(x, DQ(W_int))                  W_int = T_int transposed
after    Gather(T_int, rows)       MatMul(x, DQ(Transpose(T_int)))       folded by onnxruntime at load

before   Conv(DQ(x, s_x), DQ(W, s_w), DQ(b, s))                          s = s_x s_w
after    Conv(DQ(x, s_x), DQ(W, s_w), DQ(b, Mul(s_x, s_w)))              likewise

The head of a language model is often tied to its table of words: it is the largest tensor there. Zero points
are the same in all layers of a width: in a network of narrow layers they weigh some percent.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from getac.onnx_graph.edit import Array, array_of, is_stored
from getac.onnx_graph.qdq import cast, new_node
from getac.pipeline import Effect, Fact, State

__all__ = ["ShareStorage"]

LEAST_ENTRIES = 8  # OpenVINO fuses less where activations share a zero point
LAYERS = ("Conv", "Gemm")
NODE_BYTES = 12
"""What a node takes more in a file than a stored tensor, beside names and data."""
TRANSPOSED = {
    ir.DataType.INT8: ir.DataType.INT8,
    ir.DataType.UINT8: ir.DataType.UINT8,
    ir.DataType.INT4: ir.DataType.INT8,
}
"""The type of a tensor -> that of a table which it can be made of; of INT4 by a Cast."""

Key = tuple[ir.DataType, tuple[int, ...], bytes]


@dataclass(frozen=True)
class ShareStorage:
    """Merges equal tensors, integers also where one is a table, transposed; multiplies scales of biases."""

    name: ClassVar[str] = "share-storage"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.LOWERED})
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset({Fact.LOWERED, Fact.SLICED, Fact.BATCH_NORMS_FOLDED})
    effect: ClassVar[Effect] = Effect.NONE

    def run(self, state: State) -> None:
        graph = state.model.graph
        for layer in list(graph):
            if layer.op_type in LAYERS and len(layer.inputs) > 2:
                multiply_scales(graph, layer)
        first: dict[Key | None, ir.Value] = {}
        stored = [value for value in graph.initializers.values() if is_candidate(value)]
        for value in sorted(stored, key=is_table, reverse=True):  # tables first: others are made of them
            same = first.setdefault(key_of(value.dtype, array_of(value)), value)
            if same is not value:
                replace(graph, value, same)
        for value in first.values():
            other = first.get(turned_key(value)) if len(value.shape or ()) == 2 else None
            if other is not None and other is not value and is_table(other) and not is_table(value):
                transpose(graph, value, other)


def is_candidate(value: ir.Value) -> bool:
    seen = value.is_graph_input() or value.is_graph_output()
    large = value.const_value is not None and value.const_value.size >= LEAST_ENTRIES
    return large and value.dtype is not ir.DataType.STRING and not seen


def is_table(value: ir.Value) -> bool:
    return any(user.op_type == "Gather" and index == 0 for user, index in value.uses())


def key_of(dtype: ir.DataType | None, array: Array) -> Key:
    """What equal tensors have in common; two that have it are equal."""
    assert dtype is not None
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
    return dtype, array.shape, digest


def turned_key(value: ir.Value) -> Key | None:
    """The key of a table that a matrix is the transposition of."""
    dtype = TRANSPOSED.get(value.dtype) if value.dtype is not None else None
    return None if dtype is None else key_of(dtype, array_of(value).T.astype(dtype.numpy(), copy=False))


def replace(graph: ir.Graph, value: ir.Value, other: ir.Value) -> None:
    for user, index in list(value.uses()):
        user.replace_input_with(index, other)
    graph.initializers.pop(str(value.name))


def transpose(graph: ir.Graph, value: ir.Value, other: ir.Value) -> None:
    """Makes a stored tensor of another one, in front of what first reads it."""
    assert value.dtype is not None and other.dtype is not None
    turned = new_node(graph, "Transpose", [other], f"{value.name}.transposed", other.dtype)
    turned.attributes["perm"] = ir.AttrInt64s("perm", [1, 0])
    nodes = [turned]
    if value.dtype is not other.dtype:
        nodes.append(cast(graph, turned.outputs[0], f"{value.name}.narrow", value.dtype))
    users = {user for user, _ in value.uses()}
    graph.insert_before(next(one for one in graph if one in users), nodes)
    replace(graph, value, nodes[-1].outputs[0])


def multiply_scales(graph: ir.Graph, layer: ir.Node) -> None:
    """Makes the scale of a layer's INT32 bias of those of its inputs, where that is shorter and the same."""
    inputs, weight, bias = (dequantizer(value) for value in layer.inputs[:3])
    if inputs is None or weight is None or bias is None:
        return
    scale, factors = bias.inputs[1], (inputs.inputs[1], weight.inputs[1])
    if scale is None or not all(map(is_stored, (scale, *factors))) or not is_candidate(scale):
        return
    stored, product = array_of(scale), array_of(factors[0]) * array_of(factors[1])
    names = sum(len(str(value.name)) for value in (scale, *factors) if value is not None)
    pays = len(scale.uses()) == 1 and stored.nbytes > NODE_BYTES + names
    if pays and stored.dtype == product.dtype == np.float32 and np.array_equal(stored, product):
        node = new_node(graph, "Mul", factors, f"{scale.name}.product", ir.DataType.FLOAT)
        graph.insert_before(bias, node)
        replace(graph, scale, node.outputs[0])
        node.name = node.outputs[0].name = scale.name


def dequantizer(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that makes a value."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == "DequantizeLinear" else None
