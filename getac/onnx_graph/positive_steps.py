"""Scales that are negative or 0 become positive ones, which compute the same.

    (q - z) s = (q' - z') (-s)      q' = low + high - q, z' likewise: -1 - q of INT4, 15 - q of UINT4
    (q - z) 0 = (z - z) 1

The mirrored integers are of the same type, -8 among them. onnxruntime's quantizer for MatMulNBits gives a
block a negative scale where its greatest magnitude is positive, and a block of zeros the scale 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from getac.onnx_graph.edit import (
    Array,
    add_initializer,
    array_of,
    is_stored,
    own_input,
    replace_tensor,
    set_input,
)
from getac.onnx_graph.integer_lattice import (
    DOMAINS,
    RANGES,
    has_stored_parameters,
    integer_type,
    is_quantize,
    parameters,
    same_parameters,
)

__all__ = ["make_steps_positive"]

Integers = npt.NDArray[np.int64]


def make_steps_positive(graph: ir.Graph) -> None:
    """Mirrors stored integers, and those between a QuantizeLinear and the DequantizeLinear behind it."""
    for node in graph:
        quantize = is_quantize(node)
        if not (quantize or is_restoring(node)) or not has_stored_parameters(node):
            continue
        scale, zero = parameters(node)
        if (scale > 0).all() or not np.isfinite(scale).all() or zero.shape != scale.shape:
            continue
        if quantize and (scale < 0).all() and not scale.ndim:
            mirror_pairs(node)
        elif is_restoring(node) and is_stored(node.inputs[0]):
            mirror_stored(node, scale, zero.astype(np.int64))


def is_restoring(node: ir.Node) -> bool:
    return node.op_type == "DequantizeLinear" and node.domain in DOMAINS


def mirror_stored(node: ir.Node, scale: Array, zero: Integers) -> None:
    """A DequantizeLinear of stored integers; they stay where their scales do not fit them."""
    assert node.inputs[0] is not None
    dtype, integers = node.inputs[0].dtype, array_of(node.inputs[0]).astype(np.int64)
    scales, zeros = spread(scale, node, integers.shape), spread(zero, node, integers.shape)
    if dtype not in RANGES or scales is None or zeros is None or integers.min(initial=0) == -(2**31):
        return
    numbers = np.where(scales > 0, integers, np.where(scales < 0, mirrored(integers, dtype), zeros))
    replace_tensor(own_input(node, 0), numbers.astype(dtype.numpy()))
    set_parameters(node, scale, zero, dtype)


def spread(numbers: Array, node: ir.Node, shape: tuple[int, ...]) -> Array | None:
    """Numbers per tensor, channel or block, one for each entry of a tensor; None where they do not fit."""
    axis, block = (
        node.attributes.get_int("axis", 1) % max(len(shape), 1),
        node.attributes.get_int("block_size", 0),
    )
    if block and numbers.ndim == len(shape) > 0:
        numbers = np.repeat(numbers, block, axis).take(range(shape[axis]), axis, mode="clip")
    elif numbers.ndim == 1:
        numbers = numbers.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    try:
        return np.broadcast_to(numbers, shape)
    except ValueError:
        return None


def mirror_pairs(quantize: ir.Node) -> None:
    """A QuantizeLinear that nothing reads but DequantizeLinear nodes with its parameters."""
    integers, dtype = quantize.outputs[0], integer_type(quantize)
    readers = [user for user, _ in integers.uses()]
    alike = all(
        is_restoring(one) and has_stored_parameters(one) and same_parameters(one, quantize) for one in readers
    )
    if dtype in RANGES and alike and not integers.is_graph_output():
        scale, zero = parameters(quantize)
        for node in [quantize, *readers]:
            set_parameters(node, scale, zero.astype(np.int64), dtype)


def set_parameters(node: ir.Node, scale: Array, zero: Integers, dtype: ir.DataType) -> None:
    """The positive scales, and the zero points of the integers that were mirrored for them."""
    graph, steps = node.graph, np.where(scale == 0, scale.dtype.type(1), np.abs(scale)).astype(scale.dtype)
    assert isinstance(graph, ir.Graph)
    zeros = np.asarray(np.where(scale < 0, mirrored(zero, dtype), zero), dtype.numpy())
    set_input(node, 1, add_initializer(graph, f"{node.name}.scale", steps))
    set_input(node, 2, add_initializer(graph, f"{node.name}.zero_point", zeros, dtype))


def mirrored(integers: Integers, dtype: ir.DataType) -> Integers:
    """Around the middle of their type; INT32, whose zero point is 0, around that."""
    return (0 if dtype is ir.DataType.INT32 else sum(RANGES[dtype])) - integers
