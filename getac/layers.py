"""Layers in normal form: what integer arithmetic needs to know of a convolution or a matrix product."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from getac.onnx_graph.edit import array_of, own_input, replace_tensor
from getac.quantizer import Quantizer

__all__ = ["Weights", "is_row", "read_weights", "set_normal_form"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Weights:
    """A layer's weights and bias with its scalar factors multiplied in.

    Args:
        weight: float32.
        bias: Shape (output units,), or None; that of a Gemm which is no row (`is_row`) keeps its shape.
        axis: The weight's dimension of output units (within a group, for a grouped ConvTranspose).
        quantizer: How the weight is rounded.
    """

    weight: Floats
    bias: Floats | None
    axis: int
    quantizer: Quantizer


def is_row(bias: ir.Value, units: int) -> bool:
    """Whether a stored bias of Gemm is one number per output unit, the same for every sample."""
    assert bias.const_value is not None
    shape = tuple(bias.const_value.shape.numpy())
    return shape in [(), (1,), (1, 1), (units,), (1, units)]


def read_weights(node: ir.Node, record: Quantizer) -> Weights:
    """Reads a Conv, ConvTranspose, Gemm or MatMul with stored float32 weights.

    A Gemm comes with alpha and beta multiplied in and its weight as (out, in), the form with transB = 1.

    Args:
        record: The weight's quantizer; a single step is repeated for every output unit.
    """
    weight = np.asarray(array_of(node.inputs[1]), dtype=np.float32)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if node.op_type == "Gemm":
        return read_gemm(node, weight, bias, record)
    numbers = None if bias is None else np.asarray(array_of(bias), dtype=np.float32)
    axis = {"Conv": 0, "ConvTranspose": 1, "MatMul": weight.ndim - 1}[node.op_type]
    return Weights(weight, numbers, axis, per_unit(record, axis, weight.shape[axis]))


def read_gemm(node: ir.Node, weight: Floats, bias: ir.Value | None, record: Quantizer) -> Weights:
    alpha = node.attributes.get_float("alpha", 1.0)
    if not node.attributes.get_int("transB", 0):
        weight, record = np.ascontiguousarray(weight.T), record.transposed()
    if alpha != 1:
        low, high = (record.low, record.high) if alpha > 0 else (-record.high, -record.low)
        step = (record.step * np.float32(abs(alpha))).astype(np.float32)
        record = replace(record, step=step, low=low, high=high)
    weight = weight * np.float32(alpha)
    units, numbers = weight.shape[0], None
    if bias is not None:
        numbers = np.asarray(array_of(bias), np.float32) * np.float32(node.attributes.get_float("beta", 1.0))
        if is_row(bias, units):
            numbers = np.broadcast_to(numbers.reshape(-1), (units,)).copy()
    return Weights(weight, numbers, 0, per_unit(record, 0, units))


def per_unit(record: Quantizer, axis: int, units: int) -> Quantizer:
    """A quantizer with one step for the whole tensor, as one with equal steps along a dimension."""
    if record.axis is not None:
        return record
    return replace(record, step=np.broadcast_to(record.step, (units,)).copy(), axis=axis)


def set_normal_form(node: ir.Node, weights: Weights) -> None:
    """States on a Gemm that alpha, beta and the transposition of B are in the numbers of `weights`."""
    if node.op_type != "Gemm":
        return
    assert isinstance(node.graph, ir.Graph)
    for attribute in ("alpha", "beta"):
        node.attributes.pop(attribute, None)
    node.attributes["transB"] = ir.AttrInt64("transB", 1)
    if weights.bias is not None and node.inputs[2] is not None:
        replace_tensor(own_input(node, 2), weights.bias)
