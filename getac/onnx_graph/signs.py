"""Which values are never negative, from the operators and the quantizers before them."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from getac.onnx_graph.edit import array_of, is_stored
from getac.onnx_graph.rearranging import rearranges
from getac.quantizer import Quantizer

__all__ = ["is_non_negative"]

NON_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs", "Exp", "Sqrt")
POOLING = ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool")
REDUCING = ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum")
OF_THE_FIRST = ("Identity", *POOLING, *REDUCING, "Pow")  # never negative where the first input is not
OF_ALL = ("Concat", "Min")  # never negative where no input is


def is_non_negative(x: ir.Value | None, quantizers: Mapping[ir.Value, Quantizer]) -> bool:
    """Whether the operators and quantizers before a value keep it from being negative."""
    pending, seen = [x], {x}
    while pending:
        value = pending.pop()
        record = quantizers.get(value) if value is not None else None
        node = value.producer() if value is not None else None
        if (record is not None and record.low == 0) or (node is not None and cuts_at_zero(node)):
            continue
        if is_stored(value) and bool((array_of(value) >= 0).all()):
            continue
        if node is None or node.domain not in ("", "ai.onnx"):
            return False
        if not (rearranges(node) or node.op_type in (*OF_THE_FIRST, *OF_ALL)):
            return False
        before = node.inputs if node.op_type in OF_ALL else node.inputs[:1]
        pending.extend(value for value in before if value not in seen)
        seen.update(before)
    return True


def cuts_at_zero(node: ir.Node) -> bool:
    least = node.inputs[1] if node.op_type == "Clip" and len(node.inputs) > 1 else None
    if is_stored(least):
        return bool(array_of(least) >= 0)
    return node.op_type in NON_NEGATIVE and node.domain in ("", "ai.onnx")
