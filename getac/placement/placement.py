"""Where integers go: which nodes onnxruntime can run on them, and which activations carry a quantizer.

What onnxruntime's CPU kernels need (measured with 1.31):

- Conv runs on integers if its input and its output are quantized; Gemm and MatMul (constant weight) if
  their input is. Their outputs are quantized where the next operator runs on integers too.
- Some operators then stay integer at any scales (`ANY_SCALE`), some only if they hand the quantizer of
  their input on unchanged (`hands_scale_on`, and a Concat of parts of one value), some only where the model
  has quantizers (`BETWEEN_OWN`). All others read and write floats.
- A Concat copies parts that have its own scale, so the parts that it alone reads get it.
- A Relu, or a Clip, in front of a quantizer that clips as much is absorbed by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from getac.onnx_graph.edit import is_stored
from getac.onnx_graph.rearranging import is_moved_across
from getac.placement.clipping import CLIPPING, carrier, clipping_bounds, implies
from getac.placement.integer_layers import is_layer, output_dimension, too_wide, why_not_integer
from getac.placement.integer_operators import (
    ANY_SCALE,
    BETWEEN_OWN,
    LAYERS,
    NO_INTEGER_KERNEL,
    hands_scale_on,
)
from getac.quantizer import Quantizer

__all__ = ["LAYERS", "NO_INTEGER_KERNEL", "Placement", "is_layer", "output_dimension", "place"]

NOTHING: Mapping[ir.Node, str] = MappingProxyType({})
UNCALIBRATED = "no quantizers for its activations, and no calibration data"
UNROUNDED = "no quantizer for its output, and no calibration data"


@dataclass
class Placement:
    """Which nodes run on integers, and which activations are quantized for them.

    Args:
        integer: The nodes that will run on integers.
        why_not: Layer -> why it will not.
        values: The activations that carry a quantizer, in the order of the graph.
        absorbed: Relu and Clip nodes that the quantizer of their output makes superfluous.
        same_as: Value -> the value whose quantizer it must share.
        sharing: The nodes that hand the quantizer of their input on.
    """

    integer: set[ir.Node] = field(default_factory=set)
    why_not: dict[ir.Node, str] = field(default_factory=dict)
    values: dict[ir.Value, None] = field(default_factory=dict)
    absorbed: set[ir.Node] = field(default_factory=set)
    same_as: dict[ir.Value, ir.Value] = field(default_factory=dict)
    sharing: set[ir.Node] = field(default_factory=set)

    def source(self, value: ir.Value) -> ir.Value:
        """The value whose quantizer a value has."""
        while value in self.same_as:
            value = self.same_as[value]
        return value

    def is_on_lattice(self, value: ir.Value) -> bool:
        """Whether a value needs no pair of its own: what is rounded already is only moved about.

        A pair behind a Transpose that follows a pair changes nothing. onnxruntime moves the first one up to
        what reads the Transpose, but not across a graph output.
        """
        node = value.producer()
        moved = node is not None and node in self.sharing and is_moved_across(node)
        return moved and not (value.is_graph_output() and value.uses())

    def writes_integers(self, value: ir.Value | None) -> bool:
        """Whether the node that makes a value needs the value's quantizer for its own kernel."""
        node = value.producer() if value is not None else None
        while node is not None and node in self.absorbed:
            node = node.inputs[0].producer() if node.inputs[0] is not None else None
        return node is not None and node in self.integer and node.op_type not in ("Gemm", "MatMul")


def place(
    graph: ir.Graph,
    quantizers: Mapping[ir.Value, Quantizer],
    calibrated: bool = True,
    floats: Mapping[ir.Node, str] = NOTHING,
) -> Placement:
    """Decides from the graph's structure and the quantizers that are there already; reads no weights.

    Args:
        calibrated: Whether there is data, or has been, for activations without a quantizer; otherwise nodes
            that need one of those stay in floats.
        floats: Layers that stay in floats by choice -> why.
    """
    excluded = dict(floats)
    while True:
        placement = place_all_but(excluded, graph, quantizers)
        missing = {v for v in placement.values if placement.source(v) not in quantizers}
        if calibrated or not missing:
            return placement
        for node in placement.integer:
            if missing.intersection(quantized_by(node, placement, quantizers)):
                excluded[node] = UNCALIBRATED if node.inputs[0] in missing else UNROUNDED


def place_all_but(
    excluded: Mapping[ir.Node, str], graph: ir.Graph, quantizers: Mapping[ir.Value, Quantizer]
) -> Placement:
    """The placement in which some nodes stay in floats, with what they lack or why they shall."""
    placement = Placement()
    # What is quantized already, and what a layer wants on integers.
    available: set[ir.Value | None] = {
        value for value in quantizers if not is_stored(value) and not too_wide(value, quantizers)
    }
    for node in graph:
        if is_layer(node):
            reason = excluded.get(node) or why_not_integer(node, quantizers)
            if reason is None:
                placement.integer.add(node)
                available.add(node.inputs[0])
            else:
                placement.why_not[node] = reason
    for node in graph:
        if node in placement.integer:
            available.update(quantized_by(node, placement, quantizers)[1:])
            continue
        if node in excluded or node.domain not in ("", "ai.onnx"):
            continue
        if hands_on(node, placement, available, quantizers):
            placement.same_as.update(dict.fromkeys(node.outputs, node.inputs[0]))  # type: ignore[arg-type]
            placement.sharing.add(node)
        elif not stays_integer(node, placement, available, quantizers):
            continue
        placement.integer.add(node)
        available.update(quantized_by(node, placement, quantizers))
    drop_unused(graph, placement, quantizers)
    for node in graph:
        if node.op_type == "Concat" and node in placement.integer - placement.sharing:
            round_as_whole(node, placement, quantizers)
    collect_values(graph, placement, quantizers)
    return placement


def hands_on(
    node: ir.Node,
    placement: Placement,
    available: set[ir.Value | None],
    quantizers: Mapping[ir.Value, Quantizer],
) -> bool:
    """Whether an operator can run on integers because its results have the quantizer of its input."""
    if not hands_scale_on(node) and not joins_parts(node, placement):
        return False
    origin = origin_of(node, placement)
    return available.issuperset(data_of(node)) and all(
        equal(quantizers, origin, output) for output in node.outputs
    )


def data_of(node: ir.Node) -> Sequence[ir.Value | None]:
    """What a node rearranges."""
    return node.inputs if node.op_type == "Concat" else node.inputs[:1]


def joins_parts(node: ir.Node, placement: Placement) -> bool:
    """Whether a Concat puts parts of one value together again, as a roll does."""
    return node.op_type == "Concat" and len({placement.source(x) for x in node.inputs if x is not None}) == 1


def origin_of(node: ir.Node, placement: Placement) -> ir.Value:
    """The value whose quantizer the first input has."""
    assert node.inputs[0] is not None
    return placement.source(node.inputs[0])


def stays_integer(
    node: ir.Node,
    placement: Placement,
    available: set[ir.Value | None],
    quantizers: Mapping[ir.Value, Quantizer],
) -> bool:
    """Whether an operator between quantized values can run on integers, with a quantizer for its result."""
    output = carrier(node, quantizers)
    if node.op_type in BETWEEN_OWN:
        own = [placement.source(x) for x in node.inputs if x is not None]
        own += [output] if node.op_type == "Softmax" else []  # a product may write floats
        if not quantizers.keys() >= set(own) or (node.op_type == "Softmax" and cuts_ones(quantizers[output])):
            return False
    elif node.op_type not in ANY_SCALE:
        return False
    inputs = all(value in available and not is_stored(value) for value in node.inputs)
    return inputs and not too_wide(output, quantizers)


def cuts_ones(record: Quantizer) -> bool:
    """Whether the lattice of a Softmax ends below 1, by more than that of 256 levels does.

    onnxruntime 1.31 then gives 0 instead of the last level for some rows.
    """
    return bool(((record.high + 1) * record.step.astype(np.float64) < 1 - 1e-6).any())


def round_as_whole(concat: ir.Node, placement: Placement, quantizers: Mapping[ir.Value, Quantizer]) -> None:
    """The parts that a Concat alone reads share the quantizer of the whole.

    They are rounded once then instead of twice, and onnxruntime copies them instead of looking up each
    number: 1.2 to 1.5 times the speed of four 1x1 convolutions and their Concat.
    """
    whole = carrier(concat, quantizers)
    bounds = {x: clipped_to(x) for x in concat.inputs if x is not None}
    record = quantizers.get(whole)
    for part, (low, high) in bounds.items():
        own = part in quantizers or part in placement.same_as or part.is_graph_output()
        widest = (min(least for least, _ in bounds.values()), max(most for _, most in bounds.values()))
        clipped = (low, high) == widest if record is None else implies(record, low, high)
        if not own and clipped and len(part.uses()) == 1 and part.producer() is not None:
            placement.same_as[part] = whole


def clipped_to(value: ir.Value) -> tuple[float, float]:
    """Between which bounds a clipping node leaves a value, where it is one that makes it."""
    node = value.producer()
    return clipping_bounds(node) if node is not None and node.op_type in CLIPPING else (-np.inf, np.inf)


def equal(quantizers: Mapping[ir.Value, Quantizer], x: ir.Value, y: ir.Value) -> bool:
    """Whether two values can share a quantizer: records that are there already must agree."""
    if x not in quantizers or y not in quantizers:
        return y not in quantizers
    a, b = quantizers[x], quantizers[y]
    return np.array_equal(a.step, b.step) and (a.low, a.high) == (b.low, b.high)


def drop_unused(graph: ir.Graph, placement: Placement, quantizers: Mapping[ir.Value, Quantizer]) -> None:
    """Operators between layers go back to floats where nothing behind them runs on integers.

    Between quantizers of the model they stay: it rounds the numbers before and behind them anyway.
    """
    for node in reversed(list(graph)):
        if node not in placement.integer or is_product(node) or is_between_own(node, placement, quantizers):
            continue
        outputs = node.outputs if node in placement.sharing else [carrier(node, quantizers)]
        if not any(user in placement.integer for output in outputs for user, _ in output.uses()):
            placement.integer.discard(node)
            for output in node.outputs:
                placement.same_as.pop(output, None)


def is_between_own(node: ir.Node, placement: Placement, quantizers: Mapping[ir.Value, Quantizer]) -> bool:
    """Whether the model has quantizers for all that a node reads and writes."""
    return all(value in quantizers for value in quantized_by(node, placement, quantizers))


def is_product(node: ir.Node) -> bool:
    """Whether a node multiplies by weights, or is the matrix product of two activations."""
    return is_layer(node) or node.op_type == "MatMul"


def quantized_by(
    node: ir.Node, placement: Placement, quantizers: Mapping[ir.Value, Quantizer]
) -> list[ir.Value | None]:
    """The activations that carry a quantizer where a node runs on integers; of a layer, the input first.

    A matrix product writes floats, or the quantizer that its output has already.
    """
    output = carrier(node, quantizers)
    if node in placement.sharing:
        return [*data_of(node), *node.outputs]
    inputs = node.inputs[:1] if is_layer(node) else node.inputs
    writes = not is_product(node) or node.op_type == "Conv" or output in quantizers
    return [*inputs, output] if writes else [*inputs]


def collect_values(graph: ir.Graph, placement: Placement, quantizers: Mapping[ir.Value, Quantizer]) -> None:
    """The values that carry a quantizer, whose quantizer it is, and what it absorbs."""
    values: set[ir.Value | None] = set()
    for node in placement.integer:
        values.update(quantized_by(node, placement, quantizers))
    order = [*graph.inputs, *(output for node in graph for output in node.outputs)]
    placement.values = {value: None for value in order if value in values}
    for node in graph:
        if node.op_type in CLIPPING and is_absorbed(node, placement, quantizers):
            placement.absorbed.add(node)


def is_absorbed(node: ir.Node, placement: Placement, quantizers: Mapping[ir.Value, Quantizer]) -> bool:
    """Whether the quantizer that a clipping node leads to clips at least as much as the node."""
    x, end = node.inputs[0], carrier(node, quantizers)
    if end not in placement.values or x in placement.values:
        return False
    if end.is_graph_output() and not placement.writes_integers(x):
        return False  # the output is what it is before the quantizer
    record = quantizers.get(placement.source(end))
    if record is None:
        return True  # it will be calibrated behind the clipping
    return implies(record, *clipping_bounds(node))
