"""Reads packed weights: integers that arithmetic restores from stored tensors alone become stored tensors.

    before   W_int4 -> Cast(INT8) -> Mul(16) -> DequantizeLinear(s)
    after    W_int8 -> Clip(-8, 7) -> DequantizeLinear(16 s)

The Clip says how many bits the integers have, and a factor that all of them share goes into the steps: so the
lattice of before is found again. Branches of a Cast or a Clip alone are understood as they are.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from getac.kernels.packing import bits_needed, common_shift
from getac.onnx_graph.edit import Array, add_initializer, array_of, is_stored, unique_name
from getac.onnx_graph.integer_lattice import source_of
from getac.onnx_graph.qdq import Storage, cut_nodes
from getac.onnx_graph.view import evaluator
from getac.quantizer import Quantizer

__all__ = ["computed_integers", "unpack_weights"]

UNPACKING = frozenset(
    {"Add", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Cast", "Clip", "Concat", "Gather", "Mul"}
    | {"Reshape", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze"}
)
READERS = ("Cast", "DequantizeLinear", "Gather")


def unpack_weights(graph: ir.Graph) -> None:
    """Stores the integers that DequantizeLinear, Cast to floats and Gather read from such a branch."""
    ends = [node.inputs[0] for node in graph if node.op_type in READERS and node.inputs]
    for end in dict.fromkeys(ends):
        if end is None or end.is_graph_output() or is_stored(source_of(end)[0]):
            continue
        if not all(reads_integers(user, index) for user, index in end.uses()):
            continue  # in the middle of a branch
        integers = computed_integers(end)
        if integers is not None and integers.size:
            restore(graph, end, integers)


def reads_integers(node: ir.Node, index: int) -> bool:
    """Whether a node makes floats of the integers, or looks rows of them up, also behind a Transpose."""
    if node.op_type == "Transpose":
        return all(reads_integers(*use) for use in node.outputs[0].uses())
    if node.op_type == "Cast":
        return ir.DataType(node.attributes.get_int("to", 0)).is_floating_point()
    return index == 0 and node.op_type in ("DequantizeLinear", "Gather")


def computed_integers(value: ir.Value) -> Array | None:
    """The integers that a branch of stored tensors computes, None if it is another one."""
    array = evaluated(value, {})
    return array if array is not None and is_integer(array) else None


def is_integer(array: Array) -> bool:
    """Also the types of few bits, which NumPy has from a library and does not call integers."""
    return ir.DataType.from_numpy(array.dtype).is_integer()


def evaluated(value: ir.Value | None, known: dict[ir.Value, Array | None]) -> Array | None:
    """What a branch computes, None where it does anything else, or reads what is not stored."""
    if value is None or is_stored(value):
        return None if value is None else array_of(value)
    if value not in known:
        known[value] = None
        node = value.producer()
        if node is not None and node.op_type in UNPACKING and node.domain in ("", "ai.onnx"):
            read = [evaluated(one, known) for one in node.inputs if one is not None]
            if len(node.outputs) == 1 and all(one is not None for one in read):
                known[value] = computed(node, [one for one in read if one is not None])
    return known[value]


def computed(node: ir.Node, read: list[Array]) -> Array:
    """ONNX's reference implementation of one node."""
    feeds = {f"x{index}": array for index, array in enumerate(read)}
    given = iter(feeds)
    names = ["" if value is None else next(given) for value in node.inputs]
    proto = onnx.helper.make_node(node.op_type, names, ["y"])
    proto.attribute.extend(ir.serde.serialize_attribute(one) for one in node.attributes.values())
    return np.asarray(evaluator(proto, feeds).run(None, feeds)[0])  # type: ignore[index]


def restore(graph: ir.Graph, end: ir.Value, integers: Array) -> None:
    """Puts stored integers in the place of a branch, for each reader as it needs them."""
    name, users, producer = str(end.name), list(end.uses()), end.producer()
    assert producer is not None
    producer.name = end.name = unique_name(graph, f"{name}.packed")  # its own name is the tensor's again
    narrow = ir.DataType.from_numpy(integers.dtype).bitwidth < 8  # a type that says how many bits there are
    shift = 0 if narrow else common_shift(integers)
    coarse = all(node.op_type == "DequantizeLinear" and is_coarse(node, shift) for node, _ in users)
    shift = shift if coarse else 0
    stored = add_initializer(graph, name, integers >> integers.dtype.type(shift) if shift else integers)
    cut = stored if narrow else clipped(graph, stored)
    for node, index in users:
        node.replace_input_with(index, stored if node.op_type == "Gather" else cut)
        if shift:
            coarsen(graph, node, shift)


def clipped(graph: ir.Graph, stored: ir.Value) -> ir.Value:
    """The integers, cut to those of their number of bits: which changes none."""
    integers = array_of(stored)
    low, high = int(integers.min()), int(integers.max())
    greatest = (1 << bits_needed(low, high) - (low < 0)) - 1
    least = (
        min(low, -greatest) if low < 0 else 0
    )  # as quantizers are: symmetric, where no integer stands apart
    lattice = Quantizer(np.asarray(1, np.float32), least, greatest)
    storage = Storage(ir.DataType.from_numpy(integers.dtype), 0)
    nodes = cut_nodes(graph, stored, str(stored.name), lattice, storage)
    if not nodes:
        return stored
    graph.insert_before(graph[0], nodes)
    return nodes[-1].outputs[0]


def is_coarse(dequantize: ir.Node, shift: int) -> bool:
    """Whether steps and zero points are stored, and the zero points share a factor of 2^shift."""
    zeros = dequantize.inputs[2] if len(dequantize.inputs) > 2 else None
    return is_stored(dequantize.inputs[1]) and (
        zeros is None or (is_stored(zeros) and not (array_of(zeros) % (1 << shift)).any())
    )


def coarsen(graph: ir.Graph, dequantize: ir.Node, shift: int) -> None:
    """Takes a factor of 2^shift from the integers into the steps, which is exact."""
    for index in range(1, len(dequantize.inputs)):
        value = dequantize.inputs[index]
        if value is not None:
            array = array_of(value)
            other = array * array.dtype.type(1 << shift) if index == 1 else array >> array.dtype.type(shift)
            dequantize.replace_input_with(index, add_initializer(graph, str(value.name), other))
