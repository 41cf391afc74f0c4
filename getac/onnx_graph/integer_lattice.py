"""What QuantizeLinear and DequantizeLinear nodes say of a lattice, and operators on integers between them.

    stored integers, or QuantizeLinear -> Clip, Cast ... -> DequantizeLinear

A Clip of integers leaves those of a lattice with fewer than its type holds. onnxruntime has no Clip of 16-bit
integers, so a wider type may come between: Cast(INT32) -> Clip -> Cast(INT16).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from getac.errors import BadInputError
from getac.onnx_graph.edit import Array, array_of, is_stored
from getac.quantizer import Quantizer

__all__ = [
    "DOMAINS",
    "RANGES",
    "Range",
    "Refused",
    "checked_record",
    "float_name",
    "has_stored_parameters",
    "integer_type",
    "is_quantize",
    "parameters",
    "range_of",
    "readings",
    "record_of",
    "same_parameters",
    "source_of",
]

Range = tuple[int, int]

RANGES: dict[ir.DataType, Range] = {
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT4: (0, 15),
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-(2**15), 2**15 - 1),
    ir.DataType.UINT16: (0, 2**16 - 1),
    ir.DataType.INT32: (-(2**31), 2**31 - 1),
}

DOMAINS = ("", "ai.onnx", "com.microsoft")  # onnxruntime's own, for types that ONNX took up in version 21


class Refused(Exception):
    """Why a Q or DQ node stays."""


def float_name(integers: str) -> str:
    """What the floats behind integers are called: as before getac (`w.int`) or onnxruntime quantized them."""
    for suffix in (".int", "_quantized"):
        if integers.endswith(suffix) and integers != suffix:
            return integers.removesuffix(suffix)
    return f"{integers}.float"


# ---- integers on their way ----


def source_of(integers: ir.Value) -> tuple[ir.Value, list[ir.Node]]:
    """Where integers come from, and the operators between, in execution order."""
    nodes: list[ir.Node] = []
    while (node := integers.producer()) is not None and node.op_type in ("Clip", "Cast"):
        if node.domain not in ("", "ai.onnx") or node.inputs[0] is None:
            break
        nodes.insert(0, node)
        integers = node.inputs[0]
    return integers, nodes


def range_behind(node: ir.Node, before: Range) -> Range | None:
    """The range behind a Clip with stored bounds, or a Cast to integers that holds it all; else None."""
    if node.op_type == "Cast":
        least, greatest = RANGES.get(ir.DataType(node.attributes.get_int("to", 0)), (0, -1))
        return before if least <= before[0] and before[1] <= greatest else None
    bounds = [*node.inputs[1:], None, None][:2]
    if node.op_type != "Clip" or not all(value is None or is_stored(value) for value in bounds):
        return None
    low, high = (None if value is None else int(array_of(value)) for value in bounds)
    least, greatest = before
    return least if low is None else max(least, low), greatest if high is None else min(greatest, high)


def readings(integers: ir.Value, known: Range) -> Iterator[Range]:
    """The range of the integers that each reader gets, behind the operators between."""
    if integers.is_graph_output():
        yield known
    for user, _ in integers.uses():
        behind = range_behind(user, known)
        if behind is None:
            yield known
        else:
            yield from readings(user.outputs[0], behind)


def range_of(dtype: ir.DataType, nodes: Sequence[ir.Node]) -> Range:
    """The integers of a type that are left behind operators on them.

    Raises:
        Refused: Another type, operators that do more than cut, or no integer is left.
    """
    if dtype not in RANGES:
        raise Refused(f"quantized to {dtype.name}, of which no record can be made")
    known = RANGES[dtype]
    for node in nodes:
        behind = range_behind(node, known)
        if behind is None:
            raise Refused(f"{node.name or node.op_type} changes the integers, or cuts them at run time")
        known = behind
    if known[0] > known[1]:
        raise Refused("its integers are cut to nothing")
    return known


# ---- scales and zero points ----


def is_quantize(node: ir.Node) -> bool:
    return node.op_type == "QuantizeLinear" and node.domain in DOMAINS


def has(node: ir.Node, index: int) -> bool:
    return len(node.inputs) > index and node.inputs[index] is not None


def integer_type(quantize: ir.Node) -> ir.DataType:
    """The type that a QuantizeLinear rounds to (ONNX version 21: zero point, output_dtype, or UINT8)."""
    if has(quantize, 2):
        zero_point = quantize.inputs[2]
        assert zero_point is not None and zero_point.dtype is not None
        return zero_point.dtype
    return ir.DataType(quantize.attributes.get_int("output_dtype", 0) or ir.DataType.UINT8)


def has_stored_parameters(node: ir.Node) -> bool:
    return is_stored(node.inputs[1]) and (not has(node, 2) or is_stored(node.inputs[2]))


def parameters(node: ir.Node) -> tuple[Array, Array]:
    """Scale and zero point of a Q or DQ node; shape () where there is one for the whole tensor."""
    if not has_stored_parameters(node):
        raise Refused("its scale or zero point is computed when the graph runs")
    scale = array_of(node.inputs[1])
    zero = array_of(node.inputs[2]) if has(node, 2) else np.zeros(scale.shape, dtype=np.int64)
    return (scale.reshape(()), zero.reshape(-1)[:1].reshape(())) if scale.size == 1 else (scale, zero)


def same_parameters(first: ir.Node, second: ir.Node) -> bool:
    (scale, zero), (other_scale, other_zero) = parameters(first), parameters(second)
    axes = {node.attributes.get_int("axis", 1) for node in (first, second)}
    return (
        scale.dtype == other_scale.dtype
        and np.array_equal(scale, other_scale)
        and np.array_equal(zero, other_zero)
        and (len(axes) == 1 or scale.ndim == 0)
    )


def record_of(node: ir.Node, known: Range, shape: tuple[int, ...] | None) -> Quantizer:
    """The record of a DequantizeLinear of a stored tensor of a shape, or (None) of an activation.

    Args:
        known: The range of the integers that it reads.

    Raises:
        Refused: Zero points that differ between channels, activations with a scale per channel or block, a
            lattice without 0.
    """
    scale, zero = parameters(node)
    if scale.ndim and shape is None:
        raise Refused("an activation with a scale per channel or block")
    zeros = np.unique(zero.astype(np.int64))
    if zeros.size > 1:
        raise Refused("zero points that differ between channels")
    shift = int(zeros[0]) if zeros.size else 0
    low, high = known[0] - shift, known[1] - shift
    if not low <= 0 <= high:
        raise Refused(f"its integers are cut to {known[0]} to {known[1]}, without the zero point {shift}")
    return checked_record(node, scale, (low, high), shape)


def checked_record(node: ir.Node, scale: Array, extent: Range, shape: tuple[int, ...] | None) -> Quantizer:
    """The record of a DequantizeLinear's scales, around 0; raises Refused if they do not fit the tensor."""
    axis = node.attributes.get_int("axis", 1) % len(shape) if scale.ndim and shape else None
    block = node.attributes.get_int("block_size", 0) or None
    try:
        record = Quantizer(scale.astype(np.float32), *extent, axis, None if axis is None else block)
    except BadInputError as error:
        raise Refused(error.message) from error
    if shape is not None and not record.fits(shape):
        raise Refused(f"scales of shape {scale.shape} for a tensor of shape {shape}")
    return record
