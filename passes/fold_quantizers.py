"""fold-quantizers: QuantizeLinear / DequantizeLinear pairs become records on values.

    before   x -> QuantizeLinear -> DequantizeLinear -> consumers      W_int -> DequantizeLinear -> consumers
    after    x (record) -> consumers                                   W (record) -> consumers

The graph then has one node per layer, as the analysis wants it. A value that is also read without its
quantizer keeps both readings apart behind an Identity. A lattice without negative integers is often all that
is left of a Relu that a quantizing tool removed: then the cut is written down as a Clip:

    before   x -> QuantizeLinear(zero point 0, UINT8) -> DequantizeLinear -> consumers
    after    x -> Clip(0, greatest) (record) -> consumers

A Clip of the integers between the two leaves the record as many as it leaves. Records then take over what
operators next to them do (`getac.onnx_graph.tightening`), so that one quantizer does it all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from getac.onnx_graph.centring import centred
from getac.onnx_graph.edit import (
    Array,
    add_initializer,
    array_of,
    is_stored,
    replace_tensor,
    swap_output_name,
    unique_name,
)
from getac.onnx_graph.finer_reading import read_coarse
from getac.onnx_graph.integer_lattice import (
    DOMAINS,
    Range,
    Refused,
    float_name,
    has_stored_parameters,
    integer_type,
    is_quantize,
    parameters,
    range_of,
    readings,
    record_of,
    same_parameters,
    source_of,
)
from getac.onnx_graph.packing.unpacking import unpack_weights
from getac.onnx_graph.positive_steps import make_steps_positive
from getac.onnx_graph.qdq import ROUNDED
from getac.onnx_graph.scaled_integers import scaled_integers
from getac.onnx_graph.settled import settle_parameters
from getac.onnx_graph.signs import is_non_negative
from getac.onnx_graph.tightening import tighten
from getac.pipeline import Fact, Refusal, State
from getac.quantizer import Quantizer

__all__ = ["FoldQuantizers"]


@dataclass(frozen=True)
class FoldQuantizers:
    """Folds Q/DQ pairs of integers up to 16 bits, per tensor, channel or block, and INT32 biases."""

    name: ClassVar[str] = "fold-quantizers"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.QUANTIZERS_FOLDED})
    keeps: ClassVar[frozenset[Fact]] = frozenset()

    def run(self, state: State) -> None:
        settle_parameters(state.model)
        unpack_weights(state.model.graph)
        make_steps_positive(state.model.graph)
        read_coarse(state.model.graph)
        for node in list(state.model.graph):
            if node.domain in ("", "ai.onnx") and len(node.outputs) == 1:
                fold_arithmetic(node, state)
        for node in list(state.model.graph):
            if node.op_type != "DequantizeLinear" or node.domain not in DOMAINS:
                continue
            try:
                fold(node, state)
            except Refused as refused:
                state.refuse(self.name, Refusal(node.name or node.op_type, str(refused), "it stays as it is"))
        tighten(state.model.graph, state.quantizers)


def fold_arithmetic(node: ir.Node, state: State) -> None:
    """What getac writes around float layers: weights restored by a Mul, copies that keep pairs apart."""
    output = node.outputs[0]
    if output.is_graph_output():
        return
    if node.op_type == "Sum" and len(node.inputs) == 1 and node.inputs[0] is not None:
        replace_and_remove(node, output, node.inputs[0])
    weight = scaled_integers(node) if node.op_type == "Mul" else None
    if weight is not None:
        stored = store(node_graph(node), weight.source, weight.integers, weight.record, weight.dtype)
        state.quantizers[stored] = weight.record
        replace_and_remove(node, output, stored)


def store(
    graph: ir.Graph, source: ir.Value, integers: Array, record: Quantizer, dtype: ir.DataType
) -> ir.Value:
    """The floats that integers around 0 stand for, beside the stored tensor that they come from."""
    numbers = integers.astype(np.float32)
    values = (numbers * record.steps_for(numbers.shape)).astype(dtype.numpy())
    return add_initializer(graph, float_name(str(source.name)), values)


def fold(node: ir.Node, state: State) -> None:
    """Folds a DequantizeLinear with what it reads, and removes what nothing reads any more."""
    assert node.inputs[0] is not None
    source, between = source_of(node.inputs[0])
    quantize = source.producer()
    if is_stored(source):
        fold_stored(node, source, between, state)
    elif quantize is not None and is_quantize(quantize):
        fold_pair(node, quantize, between, state)
    else:
        raise Refused("it does not follow a QuantizeLinear")
    for one in [*reversed(between), *([] if quantize is None else [quantize])]:
        if not (one.outputs[0].uses() or one.outputs[0].is_graph_output()):
            node_graph(one).remove(one, safe=True)


def fold_stored(node: ir.Node, integers: ir.Value, between: list[ir.Node], state: State) -> None:
    """A stored tensor of integers becomes one of floats, with a record."""
    output = node.outputs[0]
    assert integers.dtype is not None and isinstance(node.graph, ir.Graph)
    if output.is_graph_output():
        raise Refused("a stored tensor is an output of the graph")
    known = range_of(integers.dtype, between)
    around_zero, quantizer = centred(node, array_of(integers).astype(np.int64).clip(*known), known)
    dtype = ir.DataType.from_numpy(parameters(node)[0].dtype)
    named = next((x for x in (node.inputs[0], integers) if x and str(x.name).endswith(".int")), integers)
    if output.name == float_name(str(named.name)):  # which is free once the node is gone
        output.name = unique_name(node.graph, f"{output.name}.dq")
    stored = store(node.graph, named, around_zero, quantizer, dtype)
    if read_as(integers, between) is not ir.DataType.INT32:  # a bias takes the scale of its layer later
        state.quantizers[stored] = quantizer
    stored.meta.update(integers.meta)
    replace_and_remove(node, output, stored)


def read_as(integers: ir.Value, between: list[ir.Node]) -> ir.DataType | None:
    """The type of stored integers behind what casts them."""
    casts = [node.attributes.get_int("to", 0) for node in between if node.op_type == "Cast"]
    return ir.DataType(casts[-1]) if casts else integers.dtype


def fold_pair(node: ir.Node, quantize: ir.Node, between: list[ir.Node], state: State) -> None:
    """A value that is rounded and restored keeps its record."""
    x = quantize.inputs[0]
    assert x is not None and isinstance(node.graph, ir.Graph)
    if not same_parameters(quantize, node):
        raise Refused("QuantizeLinear and DequantizeLinear have different scales or zero points")
    known = range_of(integer_type(quantize), between)
    quantizer = record_of(node, known, array_of(x).shape if is_stored(x) else None)
    output = node.outputs[0]
    if output.is_graph_output():
        copy_output(node)
    apart = reads_differently(x, quantize, known, quantizer, state)
    if is_stored(x):
        replace_and_remove(node, output, rounded_tensor(node, x, quantizer, apart, state))
    elif quantizer.low == 0 and not (
        x.meta.get(ROUNDED) == quantizer or is_non_negative(x, state.quantizers)
    ):
        keep_cut(node, x, quantizer, state)
    elif apart:
        keep_apart(node, x, quantizer, state)
    else:
        state.quantizers[x] = quantizer
        replace_and_remove(node, output, x)


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


def reads_differently(
    x: ir.Value, quantize: ir.Node, known: Range, quantizer: Quantizer, state: State
) -> bool:
    """Whether somebody reads the value without this quantizer."""
    before = state.quantizers.get(x)
    if before is not None:
        return before != quantizer
    alike = all(same_quantizer(user, quantize) and reads_only(user, known) for user, _ in x.uses())
    return not alike or x.is_graph_output()


def same_quantizer(user: ir.Node, quantize: ir.Node) -> bool:
    return user is quantize or (
        is_quantize(user)
        and has_stored_parameters(user)
        and integer_type(user) is integer_type(quantize)
        and same_parameters(user, quantize)
    )


def reads_only(quantize: ir.Node, known: Range) -> bool:
    """Whether all that is made of a value's integers is made of one range of them."""
    return set(readings(quantize.outputs[0], range_of(integer_type(quantize), ()))) <= {known}


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
    """Replaces a pair by a node that carries its record."""
    graph, output, x = node_graph(node), node.outputs[0], new.inputs[0]
    assert x is not None
    new.name = unique_name(graph, f"{x.name}.quantized")
    graph.insert_before(node, new)
    new.outputs[0].type = x.type
    state.quantizers[new.outputs[0]] = quantizer
    name = str(output.name)
    replace_and_remove(node, output, new.outputs[0])
    new.outputs[0].name = unique_name(graph, name_of_cut(str(x.name), name))


def name_of_cut(x: str, pair: str) -> str:
    """That of the pair; of one that getac wrote for it, as it was: lowered again, names stay the same."""
    own = pair.removesuffix(".dq")
    return pair if own == x else own


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
