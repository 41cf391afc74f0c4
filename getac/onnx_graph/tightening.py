"""Records take over what the operators next to them do: one quantizer then does it all, exactly.

    before   x (step s, low ... high) -> Relu -> y         after   x -> Relu -> y (step s, 0 ... high)
    before   x -> Relu or Clip -> y (step s, low ...)      after   y without the integers that it never takes
    before   Mul(Sign(x), a (step s, 0 ...)) -> y          after   Mul(Sign(x), a) -> y (step s, -high ...)

The first is exact since a Relu maps a lattice to itself, the last since rounding to even is odd.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from getac.onnx_graph.edit import array_of, is_stored
from getac.onnx_graph.signs import is_non_negative
from getac.quantizer import Quantizer

__all__ = ["tighten"]

Records = MutableMapping[ir.Value, Quantizer]


def tighten(graph: ir.Graph, records: Records) -> None:
    """Moves and narrows the records of a graph; no value changes."""
    for node in graph:
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "Relu":
            move_behind(node.inputs[0], node, records)
        if node.op_type == "Mul":
            move_behind(magnitude(node, records), node, records, signed=True)
        for output in node.outputs:
            leave_out_unused(output, records)


def move_behind(x: ir.Value | None, node: ir.Node, records: Records, signed: bool = False) -> None:
    """A record on what a node alone reads becomes one on what it writes."""
    y = node.outputs[0]
    record = records.get(x) if x is not None else None
    if x is None or record is None or record.high <= 0 or len(x.uses()) > 1:
        return
    if is_stored(x) or x.is_graph_input() or x.is_graph_output() or y.is_graph_output() or y in records:
        return
    low = -record.high if signed else max(record.low, 0)
    records[y] = replace(records.pop(x), low=low)


def magnitude(product: ir.Node, records: Records) -> ir.Value | None:
    """The factor of a Sign whose record says that it is never negative."""
    for sign, other in (product.inputs, reversed(product.inputs)):
        producer = sign.producer() if sign is not None else None
        record = records.get(other) if other is not None else None
        if producer is not None and producer.op_type == "Sign" and record is not None and record.low == 0:
            return other
    return None


def leave_out_unused(value: ir.Value, records: Records) -> None:
    """A lattice loses the integers that its value never takes: then it does what the node before it does."""
    record = records.get(value)
    if record is None:
        return
    if record.low < 0 < record.high and is_non_negative(value, records):
        record = replace(record, low=0)
    low, high = clipped(value, record)
    if low <= 0 <= high:
        record = replace(record, low=max(record.low, low), high=min(record.high, high))
    records[value] = record


def clipped(value: ir.Value, record: Quantizer) -> tuple[int, int]:
    """The outermost integers that a Clip before the quantizer lets through."""
    node = value.producer()
    if node is None or node.op_type != "Clip" or record.axis is not None:
        return record.low, record.high
    bounds = [*node.inputs[1:], None, None][:2]
    low, high = (
        integer(bound, record) if is_stored(bound) else end
        for bound, end in zip(bounds, (record.low, record.high), strict=True)
    )
    return low, high


def integer(bound: ir.Value | None, record: Quantizer) -> int:
    """What a stored number is rounded to: rounding keeps the order, so a bound becomes a bound."""
    return int(record.integers(array_of(bound).astype(np.float32).reshape(())))
