"""Writes quantizers down as QuantizeLinear and DequantizeLinear, in the forms that onnxruntime fuses.

Activations are UINT8 and weights INT8, zero points are always explicit (Gemm does not fuse without one),
and a lattice with fewer than 256 integers is cut by a Clip on the integers, which fuses where a float Clip
would not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from getac.onnx_graph.edit import Array, add_initializer, swap_output_name, unique_name
from getac.quantizer import Quantizer

__all__ = [
    "barrier",
    "dequantized_bias",
    "dequantized_weight",
    "keep_quantizer",
    "quantize_activation",
    "scaled_weight",
]


Floats = npt.NDArray[np.float32]


def new_node(
    graph: ir.Graph,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    dtype: ir.DataType,
    **attributes: int,
) -> ir.Node:
    """A node with one typed output; both are called `name`, or the next free name after it."""
    name = unique_name(graph, name)
    node = ir.node(op_type, inputs, attributes, name=name)
    node.outputs[0].name = name
    node.outputs[0].type = ir.TensorType(dtype)
    return node


def quantize_activation(graph: ir.Graph, value: ir.Value, quantizer: Quantizer, keep_outputs: bool) -> None:
    """Puts one Q/DQ pair behind a value; everything that reads the value reads the pair.

    Args:
        quantizer: Per tensor, at most 8 bits.
        keep_outputs: Whether a graph output stays the value before the pair.
    """
    nodes = quantizer_nodes(graph, value, quantizer, ir.DataType.FLOAT)
    replace_uses(graph, value, nodes)
    if value.is_graph_output() and not keep_outputs:
        swap_output_name(graph, value, nodes[-1].outputs[0])


def keep_quantizer(graph: ir.Graph, value: ir.Value, quantizer: Quantizer, dtype: ir.DataType) -> None:
    """Puts a Q/DQ pair behind a value that only floats read and write; the value itself stays an output.

    A Sum on either side keeps onnxruntime from making anything else of the pair: quantizing a float layer
    next to it, or merging it with another pair.

    Args:
        quantizer: Per tensor, at most 16 bits.
        dtype: The value's type.
    """
    name = value.name or "value"
    before = new_node(graph, "Sum", [value], f"{name}.before", dtype)
    pair = quantizer_nodes(graph, before.outputs[0], quantizer, dtype)
    after = new_node(graph, "Sum", [pair[-1].outputs[0]], f"{name}.after", dtype)
    replace_uses(graph, value, [before, *pair, after])


def quantizer_nodes(
    graph: ir.Graph, value: ir.Value, quantizer: Quantizer, dtype: ir.DataType
) -> list[ir.Node]:
    """Q, a Clip of the integers where the lattice does not fill their type, and DQ; not yet in the graph."""
    name, zero_point = value.name or "value", -quantizer.low
    top = quantizer.high + zero_point
    integer = ir.DataType.UINT8 if top <= 255 else ir.DataType.UINT16
    stored = integer.numpy()
    scale = add_initializer(graph, f"{name}.scale", quantizer.step.astype(dtype.numpy()), dtype)
    zero = add_initializer(graph, f"{name}.zero_point", np.asarray(zero_point, stored))
    nodes = [new_node(graph, "QuantizeLinear", [value, scale, zero], f"{name}.q", integer)]
    if top < np.iinfo(stored).max:
        least = add_initializer(graph, f"{name}.least", np.asarray(0, stored))
        greatest = add_initializer(graph, f"{name}.greatest", np.asarray(top, stored))
        inputs = [nodes[-1].outputs[0], least, greatest]
        nodes.append(new_node(graph, "Clip", inputs, f"{name}.cut", integer))
    inputs = [nodes[-1].outputs[0], scale, zero]
    nodes.append(new_node(graph, "DequantizeLinear", inputs, f"{name}.dq", dtype))
    return nodes


def replace_uses(graph: ir.Graph, value: ir.Value, nodes: list[ir.Node]) -> None:
    """Puts a chain of nodes behind a value; what read the value reads the end of the chain."""
    first = nodes[0]
    users = [(user, index) for user, index in value.uses() if user is not first]
    insert_behind(graph, value, nodes)
    for user, index in users:
        user.replace_input_with(index, nodes[-1].outputs[0])


def insert_behind(graph: ir.Graph, value: ir.Value, nodes: list[ir.Node]) -> None:
    producer = value.producer()
    if producer is not None:
        graph.insert_after(producer, nodes)
    elif len(graph):
        graph.insert_before(graph[0], nodes)
    else:
        graph.extend(nodes)


def dequantized_weight(layer: ir.Node, name: str, weight: Floats, quantizer: Quantizer) -> ir.Value:
    """Stored integers -> DequantizeLinear in front of a layer, one step per index of the quantizer's axis."""
    integers, zero_point = stored_integers(weight, quantizer)
    zeros = np.full(quantizer.step.shape, zero_point, integers.dtype)
    return dequantized(layer, name, integers, quantizer.step, zeros, quantizer.axis)


def dequantized_bias(layer: ir.Node, name: str, integers: npt.NDArray[np.int32], scale: Floats) -> ir.Value:
    """INT32 bias -> DequantizeLinear; the scale must be exactly s_x s_w, or QGemm is silently wrong."""
    return dequantized(layer, name, integers, scale, np.zeros(scale.shape, np.int32), 0)


def stored_integers(weight: Floats, quantizer: Quantizer) -> tuple[Array, int]:
    """A weight's integers and their zero point: INT8 around 0 where the lattice fits, else UINT8."""
    integers = quantizer.integers(weight)
    if quantizer.low >= -128 and quantizer.high <= 127:
        return integers.astype(np.int8), 0
    return (integers - quantizer.low).astype(np.uint8), -quantizer.low


def dequantized(
    layer: ir.Node, name: str, integers: Array, steps: Floats, zeros: Array, axis: int | None
) -> ir.Value:
    graph = graph_of(layer)
    stored = add_initializer(graph, f"{name}.int", integers)
    scale = add_initializer(graph, f"{name}.scale", steps.astype(np.float32))
    zero = add_initializer(graph, f"{name}.zero_point", zeros)
    attributes = {} if axis is None else {"axis": axis}
    inputs: list[ir.Value | None] = [stored, scale, zero]
    node = new_node(graph, "DequantizeLinear", inputs, f"{name}.dq", ir.DataType.FLOAT, **attributes)
    graph.insert_before(layer, node)
    return node.outputs[0]


def scaled_weight(layer: ir.Node, name: str, weight: Floats, quantizer: Quantizer) -> ir.Value:
    """Stored integers -> Cast -> Mul, which onnxruntime folds into float weights when it loads the model."""
    graph, float_ = graph_of(layer), ir.DataType.FLOAT
    integers, zero_point = stored_integers(weight, quantizer)
    stored = add_initializer(graph, f"{name}.int", integers)
    nodes = [new_node(graph, "Cast", [stored], f"{name}.cast", float_, to=int(float_))]
    if zero_point:
        zero = add_initializer(graph, f"{name}.zero_point", np.asarray(zero_point, np.float32))
        nodes.append(new_node(graph, "Sub", [nodes[-1].outputs[0], zero], f"{name}.centred", float_))
    scale = add_initializer(graph, f"{name}.scale", quantizer.steps_for(weight.ndim))
    nodes.append(new_node(graph, "Mul", [nodes[-1].outputs[0], scale], f"{name}.restored", float_))
    graph.insert_before(layer, nodes)
    return nodes[-1].outputs[0]


def barrier(layer: ir.Node, index: int) -> None:
    """Keeps onnxruntime from quantizing a float layer by itself: a Sum of one input in front of it.

    A Conv, ConvTranspose or Gemm with constant float weights between a DequantizeLinear and a
    QuantizeLinear gets its weights re-quantized per tensor, silently. Sum is the cheapest copy that the
    optimiser of onnxruntime 1.31 does not remove (it removes Identity, Mul by 1, Reshape to itself).
    """
    graph, value = graph_of(layer), layer.inputs[index]
    assert value is not None
    copy = new_node(graph, "Sum", [value], f"{value.name}.float", ir.DataType.FLOAT)
    graph.insert_before(layer, copy)
    layer.replace_input_with(index, copy.outputs[0])


def graph_of(node: ir.Node) -> ir.Graph:
    assert isinstance(node.graph, ir.Graph)
    return node.graph
