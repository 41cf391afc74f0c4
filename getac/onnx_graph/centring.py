"""Stored integers around 0: less their zero points, which may differ between channels or blocks."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from getac.onnx_graph.edit import Array
from getac.onnx_graph.integer_lattice import Range, Refused, checked_record, parameters, record_of
from getac.quantizer import Quantizer

__all__ = ["centred"]


def centred(node: ir.Node, integers: Array, known: Range) -> tuple[Array, Quantizer]:
    """The integers that a DequantizeLinear multiplies by its scales, and their record.

    Where zero points differ, the record is that of the differences, which lie around 0 for all channels and
    take a bit more than the type has: those of UINT4 are -15 to 15.

    Args:
        known: The range of the stored integers.

    Raises:
        Refused: There is no record of them.
    """
    scale, zero = parameters(node)
    points = zero.astype(np.int64)
    if np.unique(points).size <= 1:
        return integers - points.reshape(-1)[:1].sum(), record_of(node, known, integers.shape)
    record = checked_record(node, scale, known, integers.shape)
    if points.shape != scale.shape:
        raise Refused(f"zero points of shape {points.shape} for scales of shape {scale.shape}")
    differences = integers - for_each_entry(points, record, integers.shape)
    extent = min(int(differences.min(initial=0)), 0), max(int(differences.max(initial=0)), 1)
    return differences, checked_record(node, scale, extent, integers.shape)


def for_each_entry(numbers: Array, record: Quantizer, shape: tuple[int, ...]) -> Array:
    """Numbers per channel or block of a record, shaped to broadcast against its tensor."""
    axis = record.axis
    assert axis is not None
    if record.block is None:
        return numbers.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return np.repeat(numbers, record.block, axis).take(range(shape[axis]), axis)
