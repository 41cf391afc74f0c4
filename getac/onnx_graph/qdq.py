"""Writes quantizers down as QuantizeLinear and DequantizeLinear, in the forms that onnxruntime fuses.

Activations are UINT8 and weights INT8, their zero points are explicit (Gemm does not fuse without one),
and a lattice with fewer than 256 integers is cut by a Clip on the integers, which fuses where a float Clip
would not. onnxruntime has no Clip of 16-bit integers: these are cut as INT32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from getac.onnx_graph.edit import (
    Array,
    add_initializer,
    array_of,
    is_stored,
    swap_output_name,
    unique_name,
)
from getac.onnx_graph.rearranging import may_be_crossed, moved_up_to, rearranges, rounded_by_pair
from getac.quantizer import Quantizer

__all__ = [
    "ROUNDED",
    "Storage",
    "barrier",
    "cast",
    "cut_nodes",
    "dequantized_bias",
    "dequantized_weight",
    "keep_quantizer",
    "keep_quantizers",
    "new_node",
    "quantize_activation",
    "quantizer_nodes",
    "restoring_nodes",
    "scaled_weight",
    "store_integers",
    "stored_integers",
    "stored_weight",
    "zero_points",
]


Floats = npt.NDArray[np.float32]

ROUNDED = "getac.rounded"
"""Says in the `meta` of a value on which lattice it is by itself: a pair of that record changes nothing."""


@dataclass(frozen=True)
class Storage:
    """How the integers of a lattice are stored: k as k + zero_point, of a type."""

    integer: ir.DataType
    zero_point: int

    @classmethod
    def unsigned(cls, quantizer: Quantizer) -> Storage:
        """From 0 on, as the integer kernels for activations want it."""
        narrow = quantizer.high - quantizer.low <= 255
        return cls(ir.DataType.UINT8 if narrow else ir.DataType.UINT16, -quantizer.low)

    @classmethod
    def exchanged(cls, quantizer: Quantizer) -> Storage:
        """As any session of onnxruntime reads activations: UINT8 around 128 where it holds the lattice.

        onnxruntime makes UINT8 of INT8 activations by itself, after it moved pairs across Transpose and
        Reshape in a form that this does not survive: the model would not load.
        """
        centred = cls.centred(quantizer)
        return cls(ir.DataType.UINT8, 128) if centred.integer is ir.DataType.INT8 else centred

    @classmethod
    def centred(cls, quantizer: Quantizer) -> Storage:
        """As they are, the zero point in the middle; at most 16 bits."""
        signed, types = quantizer.signed, ir.DataType
        narrow, wide = (types.INT8, types.INT16) if signed else (types.UINT8, types.UINT16)
        limits = np.iinfo(narrow.numpy())
        fits = limits.min <= quantizer.low and quantizer.high <= limits.max
        return cls(narrow if fits else wide, 0)


def new_node(
    graph: ir.Graph,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    dtype: ir.DataType,
    **attributes: int,
) -> ir.Node:
    """A node with one typed output; both are called `name`, or the next free name after it."""
    name = unique_name(graph, name)
    node = ir.node(op_type, inputs, attributes, name=name)
    node.outputs[0].name = name
    node.outputs[0].type = ir.TensorType(dtype)
    return node


def quantize_activation(
    graph: ir.Graph,
    value: ir.Value,
    quantizer: Quantizer,
    keep_outputs: bool,
    dtype: ir.DataType = ir.DataType.FLOAT,
) -> None:
    """Puts one Q/DQ pair behind a value; everything that reads the value reads the pair.

    Args:
        quantizer: Per tensor, at most 8 bits.
        keep_outputs: Whether a graph output stays the value before the pair.
        dtype: The value's type; kernels for integers have float32 on their other side.
    """
    nodes = quantizer_nodes(graph, value, quantizer, dtype)
    replace_uses(graph, value, nodes)
    if value.is_graph_output() and not keep_outputs:
        swap_output_name(graph, value, nodes[-1].outputs[0])


def keep_quantizers(
    graph: ir.Graph,
    quantizers: MutableMapping[ir.Value, Quantizer],
    dtype_of: Callable[[ir.Value], ir.DataType],
) -> None:
    """Takes the records of activations out of `quantizers` and puts a kept Q/DQ pair behind each of them.

    None is needed where entries are only moved about that a pair of the same record rounded.
    """
    for value, record in list(records_to_keep(graph, quantizers)):
        keep_quantizer(graph, value, record, dtype_of(value))


def records_to_keep(
    graph: ir.Graph, quantizers: MutableMapping[ir.Value, Quantizer]
) -> Iterator[tuple[ir.Value, Quantizer]]:
    """Takes out the records of activations; gives those that round anything, in the order of the graph."""
    rounded: dict[ir.Value | None, Quantizer] = {}
    for value in [*graph.inputs, *(output for node in graph for output in node.outputs)]:
        node = value.producer()
        moved = rounded.get(node.inputs[0]) if node is not None and rearranges(node) else None
        record = quantizers.pop(value, moved)
        if record is not None:
            rounded[value] = record
            if record not in (moved, value.meta.get(ROUNDED)):
                yield value, record


def keep_quantizer(graph: ir.Graph, value: ir.Value, quantizer: Quantizer, dtype: ir.DataType) -> None:
    """Puts a Q/DQ pair behind a value that only floats read and write; the value itself stays an output.

    A Sum on either side keeps onnxruntime from making anything else of the pair: quantizing a float layer
    next to it, or merging it with another pair. For more than 8 bits it has no kernels: there, only a layer
    whose weights it would quantize, another pair, and outputs are kept away.

    Args:
        quantizer: Per tensor, at most 16 bits.
        dtype: The value's type.
    """
    name, wide = value.name or "value", quantizer.bits > 8
    chain: list[ir.Node] = []
    above = [value, *moved_up_to(value)]
    if not wide or any(map(rounded_by_pair, above)) or any(one.is_graph_output() for one in above[1:]):
        chain.append(new_node(graph, "Sum", [value], f"{name}.before", dtype))
    source = chain[-1].outputs[0] if chain else value
    chain += quantizer_nodes(graph, source, quantizer, dtype, name=name)
    if not wide or is_read_by_layer(value):
        chain.append(new_node(graph, "Sum", [chain[-1].outputs[0]], f"{name}.after", dtype))
    replace_uses(graph, value, chain)


def is_read_by_layer(value: ir.Value) -> bool:
    """Whether onnxruntime may move a pair behind a value up to a layer whose weights it quantizes itself."""
    return any(
        user.op_type in ("Conv", "ConvTranspose", "Gemm")
        or (may_be_crossed(user) and any(map(is_read_by_layer, user.outputs)))
        for user, _ in value.uses()
    )


def quantizer_nodes(
    graph: ir.Graph,
    value: ir.Value,
    quantizer: Quantizer,
    dtype: ir.DataType,
    storage: Storage | None = None,
    name: str | None = None,
) -> list[ir.Node]:
    """Q, a cut of the integers where the lattice does not fill their type, and DQ; not yet in the graph.

    Args:
        dtype: The value's type, and that of the scales.
        storage: By default `Storage.unsigned`.
        name: What the names begin with; by default the value's.
    """
    storage = storage or Storage.unsigned(quantizer)
    name = name or value.name or "value"
    parameters = scale_and_zero(graph, name, quantizer, dtype, storage)
    rounded = new_node(
        graph, "QuantizeLinear", [value, *parameters], f"{name}.q", storage.integer, **along(quantizer)
    )
    cut = cut_nodes(graph, rounded.outputs[0], name, quantizer, storage)
    last = [rounded, *cut][-1].outputs[0]
    restored = new_node(
        graph, "DequantizeLinear", [last, *parameters], f"{name}.dq", dtype, **along(quantizer)
    )
    return [rounded, *cut, restored]


def restoring_nodes(
    graph: ir.Graph, name: str, integers: Array, quantizer: Quantizer, storage: Storage
) -> list[ir.Node]:
    """Stored integers of a symmetric or unsigned lattice: their cut, and DQ; not yet in the graph."""
    stored = add_initializer(graph, f"{name}.int", integers)
    full = quantizer.high == np.iinfo(integers.dtype).max  # -128 is not among the integers anyway
    cut = [] if full else cut_nodes(graph, stored, name, quantizer, storage)
    parameters = scale_and_zero(graph, name, quantizer, ir.DataType.FLOAT, storage)
    inputs = [cut[-1].outputs[0] if cut else stored, *parameters]
    return [
        *cut,
        new_node(graph, "DequantizeLinear", inputs, f"{name}.dq", ir.DataType.FLOAT, **along(quantizer)),
    ]


def scale_and_zero(
    graph: ir.Graph, name: str, quantizer: Quantizer, dtype: ir.DataType, storage: Storage
) -> list[ir.Value]:
    zeros = np.full(quantizer.step.shape, storage.zero_point, storage.integer.numpy())
    return [
        add_initializer(graph, f"{name}.scale", quantizer.step.astype(dtype.numpy()), dtype),
        add_initializer(graph, f"{name}.zero_point", zeros),
    ]


def along(quantizer: Quantizer) -> dict[str, int]:
    """The dimension of the steps, and the size of the blocks that have one each."""
    along = {"axis": quantizer.axis, "block_size": quantizer.block}
    return {name: number for name, number in along.items() if number is not None}


def cut_nodes(
    graph: ir.Graph, integers: ir.Value, name: str, quantizer: Quantizer, storage: Storage
) -> list[ir.Node]:
    """A Clip of integers to those of the lattice, none where their type ends there; not yet in the graph."""
    low, high = quantizer.low + storage.zero_point, quantizer.high + storage.zero_point
    limits = np.iinfo(storage.integer.numpy())
    if (low, high) == (limits.min, limits.max):
        return []
    wide = ir.DataType.INT32 if limits.bits == 16 else storage.integer
    nodes = [] if wide is storage.integer else [cast(graph, integers, f"{name}.wide", wide)]
    ends = {"least": low, "greatest": high}
    bounds = [add_initializer(graph, f"{name}.{end}", np.asarray(k, wide.numpy())) for end, k in ends.items()]
    integers = nodes[-1].outputs[0] if nodes else integers
    nodes.append(new_node(graph, "Clip", [integers, *bounds], f"{name}.cut", wide))
    if wide is not storage.integer:
        nodes.append(cast(graph, nodes[-1].outputs[0], f"{name}.narrow", storage.integer))
    return nodes


def cast(graph: ir.Graph, value: ir.Value, name: str, dtype: ir.DataType) -> ir.Node:
    return new_node(graph, "Cast", [value], name, dtype, to=int(dtype))


def replace_uses(graph: ir.Graph, value: ir.Value, nodes: list[ir.Node]) -> None:
    """Puts a chain of nodes behind a value; what read the value reads the end of the chain."""
    first = nodes[0]
    users = [(user, index) for user, index in value.uses() if user is not first]
    insert_behind(graph, value, nodes)
    for user, index in users:
        user.replace_input_with(index, nodes[-1].outputs[0])


def insert_behind(graph: ir.Graph, value: ir.Value, nodes: list[ir.Node]) -> None:
    producer = value.producer()
    if producer is not None:
        graph.insert_after(producer, nodes)
    elif len(graph):
        graph.insert_before(graph[0], nodes)
    else:
        graph.extend(nodes)


def dequantized_weight(layer: ir.Node, name: str, weight: Floats, quantizer: Quantizer) -> ir.Value:
    """Stored integers -> DequantizeLinear in front of a layer, one step per index of the quantizer's axis.

    Conv is fused without a zero point of 0 as well; Gemm and MatMul want theirs.

    A lattice of more than 256 integers has a zero point per index, too (`zero_points`).
    """
    integers, zeros = stored_weight(weight, quantizer)
    said = layer.op_type != "Conv" or integers.dtype != np.int8 or bool(zeros.any())
    return dequantized(layer, name, integers, quantizer.step, zeros if said else None, quantizer.axis)


def stored_weight(weight: Floats, quantizer: Quantizer) -> tuple[Array, Array]:
    """A weight's integers and their zero points, one per step: all the same unless there are too many."""
    integers = quantizer.integers(weight)
    zeros = zero_points(integers, quantizer)
    if zeros is not None:
        shifted = integers + along_axis(zeros, quantizer, weight.ndim)
        return shifted.astype(np.int8), zeros.astype(np.int8)
    stored, zero_point = stored_integers(weight, quantizer)
    return stored, np.full(quantizer.step.shape, zero_point, stored.dtype)


def store_integers(graph: ir.Graph, weight: ir.Value, quantizer: Quantizer) -> None:
    """W (record) becomes DequantizeLinear(W_int); whatever reads W reads that."""
    users = list(weight.uses())
    if not (is_stored(weight) and users) or weight.is_graph_output():
        return
    name, dtype = str(weight.name), weight.dtype or ir.DataType.FLOAT
    integers, zeros = stored_weight(array_of(weight).astype(np.float32), quantizer)
    step = quantizer.step.astype(dtype.numpy())
    inputs = [
        add_initializer(graph, f"{name}.int", integers),
        add_initializer(graph, f"{name}.scale", step, dtype),
        add_initializer(graph, f"{name}.zero_point", zeros),
    ]
    attributes = {} if quantizer.axis is None else {"axis": quantizer.axis}
    attributes |= {} if quantizer.block is None else {"block_size": quantizer.block}
    restored = new_node(graph, "DequantizeLinear", inputs, f"{name}.dq", dtype, **attributes)
    restored.outputs[0].shape = weight.shape
    graph.insert_before(graph[0], restored)
    for user, index in users:
        user.replace_input_with(index, restored.outputs[0])
    graph.initializers.pop(name)


def zero_points(integers: Array, quantizer: Quantizer) -> Array | None:
    """Per index of the axis, the one nearest to 0 with which the index's integers are of INT8.

    None where a lattice needs none (it has 256 integers at most) or an index has too many. Files of UINT8
    weights with a zero point per unit have at most 256 for each, about twice as many in all: onnxruntime's
    Gemm and MatMul take as long as with zero points of 0.
    """
    limits = np.iinfo(np.int8)
    if quantizer.bits <= limits.bits or quantizer.axis is None or quantizer.block is not None:
        return None
    others = tuple(i for i in range(integers.ndim) if i != quantizer.axis)
    least, greatest = integers.min(axis=others, initial=0), integers.max(axis=others, initial=0)
    if (greatest - least > limits.max - limits.min).any():
        return None
    nearest: Array = np.clip(0, limits.min - least, limits.max - greatest)
    return nearest


def along_axis(numbers: Array, quantizer: Quantizer, rank: int) -> Array:
    return numbers.reshape([-1 if i == quantizer.axis else 1 for i in range(rank)])


def dequantized_bias(layer: ir.Node, name: str, integers: npt.NDArray[np.int32], scale: Floats) -> ir.Value:
    """INT32 bias -> DequantizeLinear; the scale must be exactly s_x s_w, or QGemm is silently wrong.

    It has no zero point, which of INT32 is 0 anyway and weighs as much as the bias.
    """
    return dequantized(layer, name, integers, scale, None, 0)


def stored_integers(weight: Floats, quantizer: Quantizer) -> tuple[Array, int]:
    """A weight's integers and their zero point: around 0 where the lattice fits, else from 0 on.

    INT8, else UINT8; INT16, else UINT16 where there are more than 256.
    """
    integers = quantizer.integers(weight)
    signed, unsigned = (np.int8, np.uint8) if quantizer.bits <= 8 else (np.int16, np.uint16)
    limits = np.iinfo(signed)
    if quantizer.low >= limits.min and quantizer.high <= limits.max:
        return integers.astype(signed), 0
    return (integers - quantizer.low).astype(unsigned), -quantizer.low


def dequantized(
    layer: ir.Node, name: str, integers: Array, steps: Floats, zeros: Array | None, axis: int | None
) -> ir.Value:
    graph = graph_of(layer)
    alike = zeros is None or zeros.ndim == 0 or (zeros == zeros[:1]).all()
    if steps.size > 1 and (steps == steps[0]).all() and alike:  # kernels are quicker with one step for all
        steps, zeros, axis = steps[0], None if zeros is None else zeros[0], None
    stored = add_initializer(graph, f"{name}.int", integers)
    scale = add_initializer(graph, f"{name}.scale", steps.astype(np.float32))
    zero = [] if zeros is None else [add_initializer(graph, f"{name}.zero_point", zeros)]
    attributes = {} if axis is None else {"axis": axis}
    inputs: list[ir.Value | None] = [stored, scale, *zero]
    node = new_node(graph, "DequantizeLinear", inputs, f"{name}.dq", ir.DataType.FLOAT, **attributes)
    graph.insert_before(layer, node)
    return node.outputs[0]


def scaled_weight(layer: ir.Node, name: str, weight: Floats, quantizer: Quantizer) -> ir.Value:
    """Stored integers -> Cast -> Mul, which onnxruntime folds into float weights when it loads the model."""
    graph, float_ = graph_of(layer), ir.DataType.FLOAT
    integers, zero_point = stored_integers(weight, quantizer)
    stored = add_initializer(graph, f"{name}.int", integers)
    nodes = [cast(graph, stored, f"{name}.cast", float_)]
    if zero_point:
        zero = add_initializer(graph, f"{name}.zero_point", np.asarray(zero_point, np.float32))
        nodes.append(new_node(graph, "Sub", [nodes[-1].outputs[0], zero], f"{name}.centred", float_))
    steps = quantizer.steps_for(weight.shape)
    alike = steps.size and (steps == steps.flat[0]).all()
    scale = add_initializer(graph, f"{name}.scale", np.asarray(steps.flat[0]) if alike else steps)
    nodes.append(new_node(graph, "Mul", [nodes[-1].outputs[0], scale], f"{name}.restored", float_))
    graph.insert_before(layer, nodes)
    return nodes[-1].outputs[0]


def barrier(layer: ir.Node, index: int) -> None:
    """Keeps onnxruntime from quantizing a float layer by itself: a Sum of one input in front of it.

    A Conv, ConvTranspose or Gemm with constant float weights between a DequantizeLinear and a
    QuantizeLinear gets its weights re-quantized per tensor, silently. Sum is the cheapest copy that the
    optimiser of onnxruntime 1.31 does not remove (it removes Identity, Mul by 1, Reshape to itself).
    """
    graph, value = graph_of(layer), layer.inputs[index]
    assert value is not None
    copy = new_node(graph, "Sum", [value], f"{value.name}.float", ir.DataType.FLOAT)
    graph.insert_before(layer, copy)
    layer.replace_input_with(index, copy.outputs[0])


def graph_of(node: ir.Node) -> ir.Graph:
    assert isinstance(node.graph, ir.Graph)
    return node.graph
