"""Packs every stored tensor of integers that are weights."""

from __future__ import annotations

import onnx_ir as ir

from getac.errors import OptionError
from getac.onnx_graph.edit import is_stored
from getac.onnx_graph.packing.packer import Packer, numbers_of
from getac.onnx_graph.packing.raising import raise_opset, why_not_raise
from getac.onnx_graph.packing.ways import COMPUTED_AS, Target, in_four_bits, packings

__all__ = ["pack_weights", "target_of"]

TWO_BITS = frozenset({ir.DataType.INT2, ir.DataType.UINT2})
SINCE_21 = frozenset({ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT8, ir.DataType.UINT8})
TWO_BITS_OPSET = 25


def pack_weights(model: ir.Model, target: Target) -> str | None:
    """Stores weights in the fewest bytes that hold them exactly.

    Returns:
        Why integers of 2 bits cannot be used although the target has them; None if nothing is in the way.
    """
    why_not = why_not_raise(model, TWO_BITS_OPSET) if target is Target.ORT else "it has to stay portable"
    types = SINCE_21 if why_not else SINCE_21 | TWO_BITS
    if model.graph.opset_imports.get("", 0) < 21:
        types = frozenset()
    packer = Packer(model.graph)
    weights = [value for value in model.graph.initializers.values() if is_packable(value)]
    for value in sorted(weights, key=stored_bytes, reverse=True):  # the largest pay for tables
        for ways in (packings, in_four_bits):  # later tensors share the tables of earlier ones
            options = [(packer.nbytes(value, one), one) for one in ways(numbers_of(value), target, types)]
            nbytes, best = min(options, key=lambda option: option[0], default=(stored_bytes(value), None))
            if best is not None and nbytes < stored_bytes(value):
                packer.pack(value, best)
                break
    packer.finish()
    stored = {value.dtype for value in model.graph.initializers.values()}
    if TWO_BITS & stored and not why_not:
        raise_opset(model, TWO_BITS_OPSET)
    return why_not if target is Target.ORT else None


def target_of(name: str) -> Target:
    """Raises OptionError where there is no such target."""
    names = [target.value for target in Target]
    if name not in names:
        raise OptionError("no such target", required=" or ".join(names), found=repr(name))
    return Target(name)


def stored_bytes(value: ir.Value) -> int:
    assert value.const_value is not None
    return value.const_value.nbytes


def is_packable(value: ir.Value) -> bool:
    """Whether a stored tensor is one of integers that are weights, wherever it is read."""
    return (
        is_stored(value)
        and value.dtype in COMPUTED_AS
        and not value.is_graph_output()
        and stored_bytes(value) > 0
        and bool(value.uses())
        and all(reads_weights(user, index, value.dtype) for user, index in value.uses())
    )


def reads_weights(node: ir.Node, index: int, dtype: ir.DataType) -> bool:
    if node.domain not in ("", "ai.onnx") or index != 0:
        return False
    if dtype is ir.DataType.INT32:  # a bias; as it is, for other readers: it may be a table of sizes
        return node.op_type == "DequantizeLinear"
    if node.op_type == "Transpose" or casts_to(node) is ir.DataType.INT4:  # a head, made of a table
        users = node.outputs[0].uses()
        return not node.outputs[0].is_graph_output() and all(reads_weights(*use, dtype) for use in users)
    floats = casts_to(node)
    if floats is not None and floats.is_floating_point():
        return True
    return node.op_type == "DequantizeLinear" or (node.op_type == "Gather" and not restores_bytes(node))


def restores_bytes(gather: ir.Node) -> bool:
    """Whether a Gather's table is one of ours, which says what stored bytes mean."""
    rows = gather.inputs[1].producer() if gather.inputs[1] is not None else None
    return rows is not None and casts_to(rows) is not None and is_stored(rows.inputs[0])


def casts_to(node: ir.Node) -> ir.DataType | None:
    return ir.DataType(node.attributes.get_int("to", 0)) if node.op_type == "Cast" else None
