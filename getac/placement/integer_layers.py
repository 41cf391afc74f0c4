"""Which layers have an integer kernel in onnxruntime, and why the others have none."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from getac.layers import is_row
from getac.onnx_graph.edit import array_of, is_stored
from getac.onnx_graph.qdq import zero_points
from getac.placement.clipping import carrier
from getac.placement.integer_operators import LAYERS, MAX_BITS, NO_INTEGER_KERNEL
from getac.quantizer import Quantizer

__all__ = ["is_layer", "output_dimension", "too_wide", "why_not_integer"]


def is_layer(node: ir.Node) -> bool:
    """Whether the node has weights of its own, as opposed to a product of two activations."""
    return node.op_type in LAYERS and node.domain in ("", "ai.onnx") and is_stored(node.inputs[1])


def why_not_integer(node: ir.Node, quantizers: Mapping[ir.Value, Quantizer]) -> str | None:
    """Why a layer cannot run on integers; None if it can."""
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    assert weight is not None and weight.shape is not None and node.inputs[0] is not None
    if node.op_type in NO_INTEGER_KERNEL:
        return f"onnxruntime has no integer kernel for {node.op_type}"
    if weight.dtype is not ir.DataType.FLOAT:
        return f"its weights are {weight.dtype.name if weight.dtype else 'of unknown type'}, not float32"
    if bias is not None and not is_stored(bias):
        return "its bias is computed when the graph runs"
    units = weight.shape.numpy()[output_dimension(node)]
    if node.op_type == "Gemm" and bias is not None and not is_row(bias, units):
        return "its bias differs between samples"
    if is_stored(node.inputs[0]):
        return "its input is a constant"
    if node.op_type == "Gemm" and node.attributes.get_int("transA", 0) == 1:
        return "its input is transposed (transA)"
    if node.op_type == "MatMul" and len(weight.shape) != 2:
        return "its weight is not a matrix"
    for value in (weight, node.inputs[0], carrier(node, quantizers)):
        if too_wide(value, quantizers) and not (value is weight and has_zero_points(node, quantizers)):
            return (
                f"{value.name} has {quantizers[value].bits} bits, and integer kernels take at most {MAX_BITS}"
            )
    record = quantizers.get(weight)
    if record is not None and record.block is not None:
        return f"its weight has a scale per block of {record.block}"
    if record is not None and record.axis not in (None, output_dimension(node)):
        return "its weight has a scale per input channel"
    return None


def too_wide(value: ir.Value | None, quantizers: Mapping[ir.Value, Quantizer]) -> bool:
    return value is not None and value in quantizers and quantizers[value].bits > MAX_BITS


def has_zero_points(layer: ir.Node, quantizers: Mapping[ir.Value, Quantizer]) -> bool:
    """Whether a zero point per output unit makes 8-bit integers of a weight, and the kernel takes them.

    Reads the weight, but only one that has a bit too many, as those have whose zero points differed.
    """
    weight = layer.inputs[1]
    record = quantizers[weight] if weight is not None else None
    if record is None or layer.op_type == "Conv" or record.bits != MAX_BITS + 1:
        return False  # QLinearConv takes one zero point for all units
    if record.axis != output_dimension(layer):
        return False
    return zero_points(record.integers(np.asarray(array_of(weight), np.float32)), record) is not None


def output_dimension(node: ir.Node) -> int:
    """The dimension of a layer's weight that its output units lie in (groups aside)."""
    weight = node.inputs[1]
    assert weight is not None and weight.shape is not None
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type, len(weight.shape) - 1)
