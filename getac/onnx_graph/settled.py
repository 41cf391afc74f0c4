"""Scales and zero points that a graph computes from stored tensors become stored tensors.

    before   DequantizeLinear(x, Exp(s), Cast<INT8>(z))
    after    DequantizeLinear(x, s', z')

torch.export writes zero points as INT64 and a Cast, trained steps are often stored as their logarithm.
"""

from __future__ import annotations

import onnx_ir as ir

from getac.onnx_graph.branches import Branches
from getac.onnx_graph.edit import add_initializer, is_stored
from getac.onnx_graph.integer_lattice import DOMAINS
from getac.onnx_graph.qoperators import is_qoperator

__all__ = ["settle_parameters"]

PAIRS = ("QuantizeLinear", "DequantizeLinear")


def settle_parameters(model: ir.Model) -> None:
    """Computes, all at once, what quantizers and operators on integers read beside their data."""
    read = {value for node in model.graph if is_quantized(node) for value in node.inputs[1:]}
    computed = [value for value in read if value is not None and not is_stored(value) and value.producer()]
    if not computed:
        return
    branches = Branches(model)
    wanted = [value for value in computed if branches.is_constant(value)]
    for value, array in zip(wanted, branches.results(wanted), strict=True):
        stored = add_initializer(model.graph, f"{value.name}.stored", array)
        for user, index in list(value.uses()):
            if is_quantized(user) and index > 0:
                user.replace_input_with(index, stored)


def is_quantized(node: ir.Node) -> bool:
    return (node.op_type in PAIRS and node.domain in DOMAINS) or is_qoperator(node)
