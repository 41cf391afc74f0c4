"""The weights of onnxruntime's MatMulNBits (com.microsoft, version 1), as those of a DequantizeLinear.

packed (N, blocks, bytes)   scales (N, blocks)   zero points: packed likewise, floats, or none

(K, N) integers             (blocks, N)          (blocks, N), the middle of the range where there were none
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from getac.onnx_graph.edit import Array, array_of, is_stored
from getac.onnx_graph.integer_lattice import Refused

__all__ = ["BlockedWeights", "blocked_weights"]

TYPES = {4: ir.DataType.UINT4.numpy(), 8: ir.DataType.UINT8.numpy()}
G_IDX = 4


@dataclass(frozen=True, eq=False)
class BlockedWeights:
    """A DequantizeLinear's inputs, with axis 0."""

    integers: Array
    scales: Array
    zeros: Array
    block: int


def blocked_weights(node: ir.Node) -> BlockedWeights:
    """Reads the weights of a MatMulNBits.

    Raises:
        Refused: They are not stored, not of 4 or 8 bits, or of other sizes than the node says; rows in
            another order; scales that are not float32; zero points that are not among the integers.
    """
    size, units, block = (node.attributes.get_int(name, 0) for name in ("K", "N", "block_size"))
    bits = node.attributes.get_int("bits", 4)
    if bits not in TYPES:
        raise Refused(f"weights of {bits} bits; those of 4 and 8 are known")
    if len(node.inputs) > G_IDX and node.inputs[G_IDX] is not None:
        raise Refused("g_idx sorts its rows into blocks")
    packed, scales, given = (stored(node, index) for index in (1, 2, 3))
    if packed is None or scales is None or min(size, units, block) < 1:
        raise Refused("it has no weights, or no sizes")
    if scales.dtype != np.float32:
        raise Refused(f"its scales are {scales.dtype}: products in blocks are written for float32 alone")
    shape, dtype = (units, -(-size // block)), TYPES[bits]
    integers = unpacked(sized(packed, units, shape[1] * block * bits // 8), bits)[:, :size]
    zeros = np.full(shape, 2 ** (bits - 1)) if given is None else zero_points(given, bits, shape)
    return BlockedWeights(
        np.ascontiguousarray(integers.T.astype(dtype)), sized(scales, *shape).T, zeros.T.astype(dtype), block
    )


def stored(node: ir.Node, index: int) -> Array | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is not None and not is_stored(value):
        raise Refused("its weights, scales or zero points are computed when the graph runs")
    return None if value is None else array_of(value)


def zero_points(given: Array, bits: int, shape: tuple[int, int]) -> Array:
    if given.dtype == np.uint8:
        return unpacked(sized(given, shape[0], -(-shape[1] * bits // 8)), bits)[:, : shape[1]]
    if not np.isin(given, np.arange(2**bits)).all():
        raise Refused("its zero points are no integers of the weights' type")
    return sized(given, *shape)


def sized(numbers: Array, rows: int, columns: int) -> Array:
    if numbers.size != rows * columns:
        raise Refused(f"{numbers.size} numbers or bytes where its sizes want {rows} x {columns}")
    return numbers.reshape(rows, columns)


def unpacked(numbers: Array, bits: int) -> Array:
    """Rows of bytes as rows of the numbers that are packed in them, lowest bits first."""
    parts = [(numbers >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(len(numbers), -1)
