"""How a layer's weights lie in the file, as a report says it: "INT8", "INT4", "4-bit + 2-bit", "FLOAT"."""

from __future__ import annotations

import onnx_ir as ir

from getac.kernels.packing import digits_per_byte
from getac.onnx_graph.edit import array_of, is_stored
from getac.onnx_graph.packing.ways import digits_name

__all__ = ["storage_of"]

LONGEST = 30  # nodes on a branch of weights; a longer walk went up activations


def storage_of(layer: ir.Node) -> str:
    """What the second input of a layer is restored from; empty if it is computed when the graph runs."""
    parts = stored_parts(layer.inputs[1] if len(layer.inputs) > 1 else None, LONGEST)
    return " + ".join(parts) if parts else ""


def stored_parts(value: ir.Value | None, left: int) -> list[str] | None:
    """The stored tensors that a value is the sum of."""
    if value is None or is_stored(value):
        return [value.dtype.name] if value is not None and value.dtype else None
    node = value.producer()
    if node is None or not node.inputs or left == 0:
        return None
    first, second = [*node.inputs, None][:2]
    if node.op_type == "Gather" and is_stored(first):
        table = array_of(first)
        return (
            [digits_name(base_of(table.shape))]
            if table.ndim == 2 and stored_parts(second, left - 1)
            else None
        )
    if node.op_type == "Add":
        both = stored_parts(first, left - 1), stored_parts(second, left - 1)
        return None if both[0] is None or both[1] is None else both[0] + both[1]
    return stored_parts(first, left - 1)


def base_of(shape: tuple[int, ...]) -> int:
    """The base of the digits that a table of this shape restores."""
    rows, places = shape
    return next(
        (base for base in range(2, 257) if digits_per_byte(base) == places and base**places == rows), rows
    )
