"""Operators that clip, in front of a quantizer, which clips as well: it may make them superfluous."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from getac.onnx_graph.edit import array_of, is_stored
from getac.quantizer import Quantizer

__all__ = ["CLIPPING", "carrier", "clipping_bounds", "implies"]

CLIPPING = ("Relu", "Clip", "Identity")  # what a quantizer behind it may do as well


def carrier(node: ir.Node, quantizers: Mapping[ir.Value, Quantizer]) -> ir.Value:
    """The value whose quantizer a node writes to: its output, after clipping nodes that alone read it.

    A value that has a quantizer already is where it ends: what is behind it reads rounded numbers.
    """
    output = node.outputs[0]
    while not (output.is_graph_output() or output in quantizers):
        users = [user for user, _ in output.uses()]
        if len(users) != 1 or users[0].op_type not in CLIPPING or users[0].inputs[0] is not output:
            break
        output = users[0].outputs[0]
    return output


def implies(record: Quantizer, low: float, high: float) -> bool:
    """Whether a quantizer clips at least as much as a clipping node with these bounds."""
    step = float(record.step)
    tolerance = 0.501 * step  # a bound is rounded like any number: to an integer at most half a step away
    return step * record.low >= low - tolerance and step * record.high <= high + tolerance


def clipping_bounds(node: ir.Node) -> tuple[float, float]:
    """The least and the greatest number that a clipping node lets through; NaN: computed when it runs."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type == "Identity":
        return -np.inf, np.inf
    bounds = [-np.inf, np.inf]
    for index in (1, 2):
        value = node.inputs[index] if len(node.inputs) > index else None
        if value is not None:
            bounds[index - 1] = float(array_of(value)) if is_stored(value) else np.nan
    return bounds[0], bounds[1]
