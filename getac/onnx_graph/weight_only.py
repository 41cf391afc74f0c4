"""Weights of matrix products with float activations: integers that onnxruntime keeps in its kernel.

    DequantizeLinear(W_int, scale) -> MatMul        becomes MatMulNBits when the model is loaded

The DequantizeLinear must read the stored integers themselves, INT4 or INT8. Scales of blocks, one float to
each, would weigh as much as a bit per weight: where they are multiples of one number per column, the
multiples are stored in eight bits, and multiplied when the model is loaded.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from getac.kernels.weight_ranges import factored
from getac.onnx_graph.edit import Array, add_initializer
from getac.onnx_graph.qdq import cast, new_node, stored_integers
from getac.quantizer import Quantizer

__all__ = ["LEAST_BLOCK", "fits_kernel", "kernel_weight", "spell_clipping"]

LEAST_BLOCK = 16  # MatMulNBits takes blocks of powers of two from here on
FLOAT = ir.DataType.FLOAT


def fits_kernel(quantizer: Quantizer) -> bool:
    """Whether MatMulNBits takes a (K, N) matrix of this quantizer: 8 bits, steps per column or in blocks."""
    axis, block = quantizer.axis, quantizer.block
    if quantizer.bits > 8:
        return False
    if block is None:
        return axis in (None, 1)
    return axis == 0 and block >= LEAST_BLOCK and block & (block - 1) == 0


def kernel_weight(layer: ir.Node, name: str, weight: Array, quantizer: Quantizer) -> ir.Value:
    """Stored integers -> DequantizeLinear in front of a MatMul, with one step per column or in blocks.

    Args:
        weight: (K, N), float32.
        quantizer: One that `fits_kernel`.
    """
    graph = layer.graph
    assert isinstance(graph, ir.Graph)
    integers, zero_point = stored_integers(weight, quantizer)
    narrow = zero_point == 0 and quantizer.low >= -8 and quantizer.high <= 7
    dtype = ir.DataType.INT4 if narrow else ir.DataType.from_numpy(integers.dtype)
    stored = add_initializer(graph, f"{name}.int", integers.astype(dtype.numpy()), dtype)
    scale, made_by = scale_of(graph, name, quantizer)
    inputs: list[ir.Value | None] = [stored, scale]
    if zero_point:
        zeros = np.full(quantizer.step.shape, zero_point, integers.dtype)
        inputs.append(add_initializer(graph, f"{name}.zero_point", zeros))
    restored = new_node(graph, "DequantizeLinear", inputs, f"{name}.dq", FLOAT, **attributes(quantizer))
    graph.insert_before(layer, [*made_by, restored])
    return restored.outputs[0]


def attributes(quantizer: Quantizer) -> dict[str, int]:
    axis = {} if quantizer.axis is None else {"axis": quantizer.axis}
    return axis if quantizer.block is None else {**axis, "block_size": quantizer.block}


def scale_of(graph: ir.Graph, name: str, quantizer: Quantizer) -> tuple[ir.Value, list[ir.Node]]:
    """The scales, and the nodes that multiply them."""
    factors = None if quantizer.block is None else factored(quantizer.step, quantizer.axis or 0)
    if factors is None:
        return add_initializer(graph, f"{name}.scale", quantizer.step), []
    multiples = add_initializer(graph, f"{name}.scale.int", factors[0])
    unit = add_initializer(graph, f"{name}.scale.unit", factors[1])
    floats = cast(graph, multiples, f"{name}.scale.cast", FLOAT)
    product = new_node(graph, "Mul", [floats.outputs[0], unit], f"{name}.scale", FLOAT)
    return product.outputs[0], [floats, product]


def spell_clipping(layer: ir.Node) -> None:
    """The Relu or Clip behind a layer, and behind its bias, is written as Max and Min.

    onnxruntime 1.31 takes a Relu or Clip for a part of the layer that waits for a QuantizeLinear, and then
    makes no MatMulNBits of it: the weight would be restored at every run.
    """
    users = layer.outputs[0].consumers()
    if len(users) == 1 and users[0].op_type == "Add":
        users = users[0].outputs[0].consumers()
    graph = layer.graph
    if len(users) != 1 or users[0].op_type not in ("Relu", "Clip") or users[0].graph is not graph:
        return
    assert isinstance(graph, ir.Graph)
    node, x = users[0], users[0].inputs[0]
    zero = np.zeros((), np.float32)
    given = [*node.inputs[1:], None, None]
    relu = node.op_type == "Relu"
    low = add_initializer(graph, f"{node.outputs[0].name}.zero", zero) if relu else given[0]
    bounds = {"Max": low, "Min": given[1]}
    wanted = [(kind, bound) for kind, bound in bounds.items() if bound is not None]
    if not wanted or x is None or x.dtype not in (None, FLOAT):
        return
    for kind, bound in wanted[:-1]:
        cut = new_node(graph, kind, [x, bound], f"{node.outputs[0].name}.cut", FLOAT)
        graph.insert_before(node, cut)
        x = cut.outputs[0]
    node.op_type = wanted[-1][0]
    node.attributes.clear()
    node.resize_inputs(2)
    node.replace_input_with(0, x)
    node.replace_input_with(1, wanted[-1][1])
