"""A layer reads integers of few bits in finer steps, so that its bias is rounded less.

    before   x -> Q(s, z) -> Clip -> x_q -> DQ(s, z) -> Conv
    after    x -> Q(s, z) -> Clip -> x_q -> Mul(f) -> DQ(s / f, f z) -> Conv

A bias of INT32 counts in steps of s_x s_w, and UINT8 has room for 16 times the integers of 4 bits. They mean
the same numbers, to the last bit where f is a power of two; what else reads x goes on as before.

onnxruntime multiplies UINT8 by one number in a pass as quick as that of the Clip: four convolutions with 64
channels keep 0.95 to 0.97 of their speed. A BitShift leaves 0.74, and a look-up, which would clip as well
(LeakyRelu between two pairs), 0.80. OpenVINO multiplies while it convolves.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from getac.onnx_graph.edit import Array, add_initializer, array_of, is_stored, set_input
from getac.onnx_graph.integer_lattice import (
    DOMAINS,
    RANGES,
    Refused,
    has_stored_parameters,
    integer_type,
    is_quantize,
    parameters,
    range_of,
    source_of,
)
from getac.onnx_graph.qdq import new_node

__all__ = ["read_coarse", "read_finer"]


def read_finer(layer: ir.Node, factor: int) -> None:
    """Makes the first input of a layer, which a DequantizeLinear makes, come in finer steps.

    Args:
        factor: How many times finer; all of the integers fit their type with it.
    """
    coarse = layer.inputs[0]
    dequantize = coarse.producer() if coarse is not None else None
    assert coarse is not None and dequantize is not None and isinstance(dequantize.graph, ir.Graph)
    finer = product_of(dequantize, factor) or multiplied(dequantize, factor)
    layer.replace_input_with(0, finer)
    if not coarse.uses() and not coarse.is_graph_output():
        dequantize.graph.remove(dequantize, safe=True)
        finer.name = coarse.name  # verification finds what stands for a value by its name


def product_of(dequantize: ir.Node, factor: int) -> ir.Value | None:
    """What other layers read that many times finer already."""
    integers = dequantize.inputs[0]
    assert integers is not None
    products = (user.outputs[0] for user, _ in integers.uses() if factor_of(user) == factor)
    return next((user.outputs[0] for product in products for user, _ in product.uses()), None)


def multiplied(dequantize: ir.Node, factor: int) -> ir.Value:
    """A DequantizeLinear of the integers times the factor."""
    graph, integers = dequantize.graph, dequantize.inputs[0]
    assert isinstance(graph, ir.Graph) and integers is not None
    (scale, zero), name = parameters(dequantize), integers.name
    number = np.asarray(factor, zero.dtype)
    inputs = [integers, add_initializer(graph, f"{name}.factor", number)]
    product = new_node(graph, "Mul", inputs, f"{name}.finer", ir.DataType.from_numpy(zero.dtype))
    inputs = [
        product.outputs[0],
        add_initializer(graph, f"{name}.finer.scale", finer_scale(scale, factor)),
        add_initializer(graph, f"{name}.finer.zero_point", np.asarray(zero * number)),
    ]
    float_ = ir.DataType.from_numpy(scale.dtype)
    restored = new_node(graph, "DequantizeLinear", inputs, f"{name}.finer.dq", float_)
    graph.insert_after(dequantize, [product, restored])
    return restored.outputs[0]


def finer_scale(scale: Array, factor: int) -> Array:
    return np.asarray(scale / scale.dtype.type(factor))


def factor_of(node: ir.Node) -> int | None:
    """The stored whole number that a node multiplies integers by; None where it does something else."""
    if node.op_type != "Mul" or node.domain not in ("", "ai.onnx") or not is_stored(node.inputs[1]):
        return None
    factor = array_of(node.inputs[1])
    return int(factor.reshape(())) if factor.size == 1 and factor.dtype.kind in "iu" else None


# ---- reading it again ----


def read_coarse(graph: ir.Graph) -> None:
    """The inverse: a DequantizeLinear of such a product becomes one of x_q, in the steps of its Q."""
    for node in list(graph):
        if node.op_type != "DequantizeLinear" or node.domain not in DOMAINS or node.inputs[0] is None:
            continue
        product = node.inputs[0].producer()
        quantize = None if product is None else quantizer_behind(product, node)
        if product is None or quantize is None:
            continue
        node.replace_input_with(0, product.inputs[0])
        for index, parameter in enumerate(quantize.inputs[1:], 1):
            set_input(node, index, parameter)
        if not (product.outputs[0].uses() or product.outputs[0].is_graph_output()):
            graph.remove(product, safe=True)


def quantizer_behind(product: ir.Node, dequantize: ir.Node) -> ir.Node | None:
    """The QuantizeLinear behind a product that means what the integers mean before it; else None."""
    factor = factor_of(product)
    if not factor or product.inputs[0] is None:
        return None
    source, between = source_of(product.inputs[0])
    quantize = source.producer()
    if quantize is None or not is_quantize(quantize):
        return None
    fits = is_within_type(between, integer_type(quantize), factor)
    return quantize if fits and is_undone(factor, quantize, dequantize) else None


def is_within_type(between: list[ir.Node], dtype: ir.DataType, factor: int) -> bool:
    """Whether integers of a type, behind operators that cut them, do not wrap around when multiplied."""
    try:
        low, high = (k * factor for k in range_of(dtype, between))
    except Refused:
        return False
    return RANGES[dtype][0] <= low and high <= RANGES[dtype][1]


def is_undone(factor: int, quantize: ir.Node, dequantize: ir.Node) -> bool:
    """Whether a DequantizeLinear divides the scale by the factor, and multiplies the zero point by it."""
    if not (has_stored_parameters(quantize) and has_stored_parameters(dequantize)):
        return False
    (scale, zero), (finer, point) = parameters(quantize), parameters(dequantize)
    scaled = np.array_equal(finer, finer_scale(scale, factor))
    return scaled and np.array_equal(point, zero.astype(np.int64) * factor)
