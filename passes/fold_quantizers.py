"""fold-quantizers: QuantizeLinear / DequantizeLinear pairs become records on values.

    before   x -> QuantizeLinear -> DequantizeLinear -> consumers      W_int -> DequantizeLinear -> consumers
    after    x (record) -> consumers                                   W (record) -> consumers

The graph then has one node per layer, as the analysis wants it. A value that is also read without its
quantizer keeps both readings apart behind an Identity. A lattice without negative integers is often all that
is left of a Relu that a quantizing tool removed: then the cut is written down as a Clip:

    before   x -> QuantizeLinear(zero point 0, UINT8) -> DequantizeLinear -> consumers
    after    x -> Clip(0, greatest) (record) -> consumers

And a lattice with negative integers behind a Relu, or one in front of it that nobody else reads, loses those:
one quantizer then does what the two operators did.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from getac.errors import BadInputError
from getac.onnx_graph.edit import (
    Array,
    add_initializer,
    array_of,
    is_stored,
    replace_tensor,
    swap_output_name,
    unique_name,
)
from getac.pipeline import Fact, Refusal, State
from getac.quantizer import Quantizer

__all__ = ["FoldQuantizers"]

RANGES = {
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT4: (0, 15),
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-(2**15), 2**15 - 1),
    ir.DataType.UINT16: (0, 2**16 - 1),
    ir.DataType.INT32: (-(2**31), 2**31 - 1),
}

NON_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs", "Exp", "Sqrt")
SELECTING = (
    "Identity",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Slice",
    "Split",
    "Expand",
)
AVERAGING = ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMean")

DOMAINS = ("", "ai.onnx", "com.microsoft")  # onnxruntime's own, for types that ONNX took up in version 21


class Refused(Exception):
    """Why a Q or DQ node stays."""


@dataclass(frozen=True)
class FoldQuantizers:
    """Folds per-tensor and per-channel Q/DQ pairs of integers up to 16 bits, and INT32 biases."""

    name: ClassVar[str] = "fold-quantizers"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.QUANTIZERS_FOLDED})
    keeps: ClassVar[frozenset[Fact]] = frozenset()

    def run(self, state: State) -> None:
        for node in list(state.model.graph):
            if node.op_type != "DequantizeLinear" or node.domain not in DOMAINS:
                continue
            try:
                if is_stored(node.inputs[0]):
                    fold_stored(node, state)
                else:
                    fold_pair(node, state)
            except Refused as refused:
                state.refuse(self.name, Refusal(node.name or node.op_type, str(refused), "it stays as it is"))
        for node in state.model.graph:
            if node.op_type == "Relu":
                move_behind(node, state)
            for output in node.outputs:
                leave_out_negatives(output, state)


def move_behind(relu: ir.Node, state: State) -> None:
    """A record on what a Relu alone reads becomes one on what it writes, without the negative integers.

        before   x (step s, low ... high) -> Relu -> y
        after    x -> Relu -> y (step s, 0 ... high)

    Exact, since Relu maps the lattice to itself; and one quantizer does what the two operators did.
    """
    x, y = relu.inputs[0], relu.outputs[0]
    record = state.quantizers.get(x) if x is not None else None
    if x is None or record is None or record.high <= 0 or len(x.uses()) > 1:
        return
    if is_stored(x) or x.is_graph_input() or y.is_graph_output() or y in state.quantizers:
        return
    state.quantizers[y] = replace(state.quantizers.pop(x), low=max(record.low, 0))


def leave_out_negatives(value: ir.Value, state: State) -> None:
    """A lattice loses the integers that its value never takes: then it does what a Relu before it does."""
    record = state.quantizers.get(value)
    if record is not None and record.low < 0 < record.high and is_non_negative(value, state):
        state.quantizers[value] = replace(record, low=0)


def fold_stored(node: ir.Node, state: State) -> None:
    """A stored tensor of integers becomes one of floats, with a record."""
    integers, output = node.inputs[0], node.outputs[0]
    assert integers is not None and integers.dtype is not None and isinstance(node.graph, ir.Graph)
    if output.is_graph_output():
        raise Refused("a stored tensor is an output of the graph")
    quantizer = record_of(node, integers.dtype, array_of(integers).shape)
    scale, zero = parameters(node)
    numbers = (array_of(integers).astype(np.int64) - zero.astype(np.int64).reshape(-1)[:1]).astype(np.float32)
    values = (numbers * quantizer.steps_for(numbers.ndim)).astype(scale.dtype)
    stored = add_initializer(node.graph, f"{integers.name}.float", values)
    if integers.dtype is not ir.DataType.INT32:  # a bias takes the scale of its layer when it is lowered
        state.quantizers[stored] = quantizer
    replace_and_remove(node, output, stored)


def fold_pair(node: ir.Node, state: State) -> None:
    """A value that is rounded and restored keeps its record."""
    stored = node.inputs[0]
    quantize = stored.producer() if stored is not None else None
    if quantize is None or stored is None or not is_quantize(quantize):
        raise Refused("it does not follow a QuantizeLinear")
    x = quantize.inputs[0]
    assert x is not None and isinstance(node.graph, ir.Graph)
    if not same_parameters(quantize, node):
        raise Refused("QuantizeLinear and DequantizeLinear have different scales or zero points")
    quantizer = record_of(node, integer_type(quantize), array_of(x).shape if is_stored(x) else None)
    output = node.outputs[0]
    if output.is_graph_output():
        copy_output(node)
    apart = reads_differently(x, quantize, quantizer, state)
    if is_stored(x):
        replace_and_remove(node, output, rounded_tensor(node, x, quantizer, apart, state))
    elif quantizer.low == 0 and not is_non_negative(x, state):
        keep_cut(node, x, quantizer, state)
    elif apart:
        keep_apart(node, x, quantizer, state)
    else:
        state.quantizers[x] = quantizer
        replace_and_remove(node, output, x)
    if not (stored.uses() or stored.is_graph_output()):
        node_graph(quantize).remove(quantize, safe=True)


def copy_output(node: ir.Node) -> None:
    """The graph output becomes a copy of a node's output: outputs are what they are behind a quantizer."""
    graph, output = node_graph(node), node.outputs[0]
    copy = ir.node("Identity", [output], name=unique_name(graph, f"{output.name}.output"))
    graph.insert_after(node, copy)
    swap_output_name(graph, output, copy.outputs[0])


def rounded_tensor(node: ir.Node, x: ir.Value, quantizer: Quantizer, apart: bool, state: State) -> ir.Value:
    """A stored tensor of floats on the lattice: x itself, or a copy where x is also read unrounded."""
    array = array_of(x)
    values = quantizer.quantize(array.astype(np.float32)).astype(array.dtype)
    if apart:
        x = add_initializer(node_graph(node), f"{x.name}.quantized", values)
    else:
        replace_tensor(x, values)
    state.quantizers[x] = quantizer
    return x


def reads_differently(x: ir.Value, quantize: ir.Node, quantizer: Quantizer, state: State) -> bool:
    """Whether somebody reads the value without this quantizer."""
    known = state.quantizers.get(x)
    if known is not None:
        return known != quantizer
    others = [user for user, _ in x.uses() if user is not quantize and not same_quantizer(user, quantize)]
    return bool(others) or x.is_graph_output()


def is_quantize(node: ir.Node) -> bool:
    return node.op_type == "QuantizeLinear" and node.domain in DOMAINS


def same_quantizer(user: ir.Node, quantize: ir.Node) -> bool:
    return (
        is_quantize(user)
        and has_stored_parameters(user)
        and integer_type(user) is integer_type(quantize)
        and same_parameters(user, quantize)
    )


def keep_apart(node: ir.Node, x: ir.Value, quantizer: Quantizer, state: State) -> None:
    """x -> Identity (record) in place of the pair, for a value that is also read unrounded."""
    put_in_place(node, ir.node("Identity", [x]), quantizer, state)


def keep_cut(node: ir.Node, x: ir.Value, quantizer: Quantizer, state: State) -> None:
    """x -> Clip (record) in place of the pair, for a value that the quantizer keeps from being negative."""
    for user, _ in x.uses():
        if user.op_type == "Clip" and state.quantizers.get(user.outputs[0]) == quantizer:
            replace_and_remove(node, node.outputs[0], user.outputs[0])
            return
    lattice, scale = {"least": quantizer.low, "greatest": quantizer.high}, parameters(node)[0]
    bounds = [
        add_initializer(node_graph(node), f"{x.name}.{side}", np.asarray(k * scale, scale.dtype))
        for side, k in lattice.items()
    ]
    put_in_place(node, ir.node("Clip", [x, *bounds]), quantizer, state)


def put_in_place(node: ir.Node, new: ir.Node, quantizer: Quantizer, state: State) -> None:
    """Replaces a pair by a node that carries its record, and gives its output the name of the pair's."""
    graph, output, x = node_graph(node), node.outputs[0], new.inputs[0]
    assert x is not None
    new.name = unique_name(graph, f"{x.name}.quantized")
    graph.insert_before(node, new)
    name = output.name
    new.outputs[0].type = x.type
    state.quantizers[new.outputs[0]] = quantizer
    replace_and_remove(node, output, new.outputs[0])
    new.outputs[0].name = name


def is_non_negative(x: ir.Value | None, state: State) -> bool:
    """Whether the operators and quantizers before a value keep it from being negative."""
    pending, seen = [x], {x}
    while pending:
        value = pending.pop()
        record = state.quantizers.get(value) if value is not None else None
        node = value.producer() if value is not None else None
        if (record is not None and record.low == 0) or (node is not None and cuts_at_zero(node)):
            continue
        if node is None or node.domain not in ("", "ai.onnx"):
            return False
        if node.op_type not in (*SELECTING, *AVERAGING, "Concat"):
            return False
        before = node.inputs if node.op_type == "Concat" else node.inputs[:1]
        pending.extend(value for value in before if value not in seen)
        seen.update(before)
    return True


def cuts_at_zero(node: ir.Node) -> bool:
    if node.op_type == "Clip" and has(node, 1) and is_stored(node.inputs[1]):
        return bool(array_of(node.inputs[1]) >= 0)
    return node.op_type in NON_NEGATIVE and node.domain in ("", "ai.onnx")


def replace_and_remove(node: ir.Node, old: ir.Value, new: ir.Value) -> None:
    graph = node_graph(node)
    for user, index in list(old.uses()):
        user.replace_input_with(index, new)
    for position, value in enumerate(graph.outputs):
        if value is old:
            new.type, new.shape = old.type, old.shape
            graph.outputs[position] = new
    graph.remove(node, safe=True)


def node_graph(node: ir.Node) -> ir.Graph:
    assert isinstance(node.graph, ir.Graph)
    return node.graph


def has(node: ir.Node, index: int) -> bool:
    return len(node.inputs) > index and node.inputs[index] is not None


def integer_type(quantize: ir.Node) -> ir.DataType:
    """The type that a QuantizeLinear rounds to (ONNX version 21: zero point, output_dtype, or UINT8)."""
    if has(quantize, 2):
        zero_point = quantize.inputs[2]
        assert zero_point is not None and zero_point.dtype is not None
        return zero_point.dtype
    return ir.DataType(quantize.attributes.get_int("output_dtype", 0) or ir.DataType.UINT8)


def has_stored_parameters(node: ir.Node) -> bool:
    return is_stored(node.inputs[1]) and (not has(node, 2) or is_stored(node.inputs[2]))


def parameters(node: ir.Node) -> tuple[Array, Array]:
    """Scale and zero point of a Q or DQ node; shape () where there is one for the whole tensor."""
    if not has_stored_parameters(node):
        raise Refused("its scale or zero point is computed when the graph runs")
    scale = array_of(node.inputs[1])
    zero = array_of(node.inputs[2]) if has(node, 2) else np.zeros(scale.shape, dtype=np.int64)
    return (scale.reshape(()), zero.reshape(-1)[:1].reshape(())) if scale.size == 1 else (scale, zero)


def same_parameters(first: ir.Node, second: ir.Node) -> bool:
    (scale, zero), (other_scale, other_zero) = parameters(first), parameters(second)
    axes = {node.attributes.get_int("axis", 1) for node in (first, second)}
    return (
        scale.dtype == other_scale.dtype
        and np.array_equal(scale, other_scale)
        and np.array_equal(zero, other_zero)
        and (len(axes) == 1 or scale.ndim == 0)
    )


def record_of(node: ir.Node, dtype: ir.DataType, shape: tuple[int, ...] | None) -> Quantizer:
    """The record of a DequantizeLinear of a stored tensor of a shape, or (None) of an activation.

    Raises:
        Refused: Blocked scales, float8 and other types, zero points that differ between channels,
            activations with a scale per channel.
    """
    scale, zero = parameters(node)
    if dtype not in RANGES:
        raise Refused(f"quantized to {dtype.name}, of which no record can be made")
    if node.attributes.get_int("block_size", 0) or scale.ndim > 1:
        raise Refused("scales per block")
    if scale.ndim and shape is None:
        raise Refused("an activation with a scale per channel")
    zeros = np.unique(zero.astype(np.int64))
    if zeros.size > 1:
        raise Refused("zero points that differ between channels")
    low, high = RANGES[dtype]
    shift = int(zeros[0]) if zeros.size else 0
    axis = node.attributes.get_int("axis", 1) % len(shape) if scale.ndim and shape else None
    if shape and axis is not None and shape[axis] != scale.size:
        raise Refused(f"{scale.size} scales for {shape[axis]} channels")
    try:
        return Quantizer(scale.astype(np.float32), low - shift, high - shift, axis)
    except BadInputError as error:
        raise Refused(error.message) from error
