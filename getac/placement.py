"""Where integers go: which nodes onnxruntime can run on them, and which activations carry a quantizer.

What onnxruntime's CPU kernels need (measured with 1.31):

- Conv runs on integers if its input and its output are quantized; Gemm and MatMul (constant weight) if
  their input is. Their outputs are quantized where the next operator runs on integers too.
- Some operators then stay integer at any scales (`ANY_SCALE`), some only if they hand the quantizer of
  their input on unchanged (`SAME_SCALE`, and a Concat of parts of one value). All others read and write
  floats.
- A Relu, or a Clip, in front of a quantizer that clips as much is absorbed by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from getac.layers import is_row
from getac.onnx_graph.edit import array_of, is_stored
from getac.quantizer import Quantizer

__all__ = ["LAYERS", "NO_INTEGER_KERNEL", "Placement", "place"]

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
NO_INTEGER_KERNEL = ("ConvTranspose",)
ANY_SCALE = ("Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid")
SAME_SCALE = (
    "MaxPool",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Slice",
    "Split",
    "DepthToSpace",
    "SpaceToDepth",  # has no kernel for integers: it runs in floats, between pairs of one scale
)
CLIPPING = ("Relu", "Clip", "Identity")  # what a quantizer behind it may do as well
MAX_BITS = 8
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

    def writes_integers(self, value: ir.Value | None) -> bool:
        """Whether the node that makes a value needs the value's quantizer for its own kernel."""
        node = value.producer() if value is not None else None
        while node is not None and node in self.absorbed:
            node = node.inputs[0].producer() if node.inputs[0] is not None else None
        return node is not None and node in self.integer and node.op_type not in ("Gemm", "MatMul")


def is_layer(node: ir.Node) -> bool:
    """Whether the node has weights of its own, as opposed to a product of two activations."""
    return node.op_type in LAYERS and node.domain in ("", "ai.onnx") and is_stored(node.inputs[1])


def place(graph: ir.Graph, quantizers: Mapping[ir.Value, Quantizer], calibrated: bool = True) -> Placement:
    """Decides from the graph's structure and the quantizers that are there already; reads no weights.

    Args:
        calibrated: Whether there is data, or has been, for activations without a quantizer; otherwise nodes
            that need one of those stay in floats.
    """
    excluded: dict[ir.Node, str] = {}
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
    """The placement in which some nodes stay in floats, for want of data, with what they lack."""
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
        elif not stays_integer(node, available, quantizers):
            continue
        placement.integer.add(node)
        available.update(quantized_by(node, placement, quantizers))
    drop_unused(graph, placement, quantizers)
    collect_values(graph, placement, quantizers)
    return placement


def why_not_integer(node: ir.Node, quantizers: Mapping[ir.Value, Quantizer]) -> str | None:
    """Why a layer cannot run on integers; None if it can."""
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    assert weight is not None and weight.shape is not None and node.inputs[0] is not None
    if node.op_type in NO_INTEGER_KERNEL:
        return f"onnxruntime has no integer kernel for {node.op_type}"
    if weight.dtype is not ir.DataType.FLOAT:
        return f"its weights are {weight.dtype.name if weight.dtype else 'of unknown type'}, not float32"
    if bias is not None and not is_stored(bias):
        return "its bias is computed when the graph runs"
    units = weight.shape.numpy()[output_dimension(node)]
    if node.op_type == "Gemm" and bias is not None and not is_row(bias, units):
        return "its bias differs between samples"
    if is_stored(node.inputs[0]):
        return "its input is a constant"
    if node.op_type == "Gemm" and node.attributes.get_int("transA", 0) == 1:
        return "its input is transposed (transA)"
    if node.op_type == "MatMul" and len(weight.shape) != 2:
        return "its weight is not a matrix"
    for value in (weight, node.inputs[0], carrier(node, quantizers)):
        if too_wide(value, quantizers):
            return (
                f"{value.name} has {quantizers[value].bits} bits, and integer kernels take at most {MAX_BITS}"
            )
    if weight in quantizers and quantizers[weight].axis not in (None, output_dimension(node)):
        return "its weight has a scale per input channel"
    return None


def too_wide(value: ir.Value | None, quantizers: Mapping[ir.Value, Quantizer]) -> bool:
    return value is not None and value in quantizers and quantizers[value].bits > MAX_BITS


def output_dimension(node: ir.Node) -> int:
    """The dimension of a layer's weight that its output units lie in (groups aside)."""
    weight = node.inputs[1]
    assert weight is not None and weight.shape is not None
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type, len(weight.shape) - 1)


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


def hands_on(
    node: ir.Node,
    placement: Placement,
    available: set[ir.Value | None],
    quantizers: Mapping[ir.Value, Quantizer],
) -> bool:
    """Whether an operator can run on integers because its results have the quantizer of its input."""
    if node.op_type not in SAME_SCALE and not joins_parts(node, placement):
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
    node: ir.Node, available: set[ir.Value | None], quantizers: Mapping[ir.Value, Quantizer]
) -> bool:
    """Whether an operator between quantized values can run on integers, with a quantizer for its result."""
    if node.op_type not in ANY_SCALE:
        return False
    inputs = all(value in available and not is_stored(value) for value in node.inputs)
    return inputs and not too_wide(carrier(node, quantizers), quantizers)


def equal(quantizers: Mapping[ir.Value, Quantizer], x: ir.Value, y: ir.Value) -> bool:
    """Whether two values can share a quantizer: records that are there already must agree."""
    if x not in quantizers or y not in quantizers:
        return y not in quantizers
    a, b = quantizers[x], quantizers[y]
    return np.array_equal(a.step, b.step) and (a.low, a.high) == (b.low, b.high)


def drop_unused(graph: ir.Graph, placement: Placement, quantizers: Mapping[ir.Value, Quantizer]) -> None:
    """Operators between layers go back to floats where nothing behind them runs on integers."""
    for node in reversed(list(graph)):
        if node not in placement.integer or is_layer(node):
            continue
        outputs = node.outputs if node in placement.sharing else [carrier(node, quantizers)]
        if not any(user in placement.integer for output in outputs for user, _ in output.uses()):
            placement.integer.discard(node)
            for output in node.outputs:
                placement.same_as.pop(output, None)


def quantized_by(
    node: ir.Node, placement: Placement, quantizers: Mapping[ir.Value, Quantizer]
) -> list[ir.Value | None]:
    """The activations that carry a quantizer where a node runs on integers; of a layer, the input first.

    A matrix product writes floats, or the quantizer that its output has already.
    """
    output = carrier(node, quantizers)
    if node in placement.sharing:
        return [*data_of(node), *node.outputs]
    if not is_layer(node):
        return [*node.inputs, output]
    writes = node.op_type == "Conv" or output in quantizers
    return [node.inputs[0], output] if writes else [node.inputs[0]]


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
    low, high = clipping_bounds(node)
    step = float(record.step)
    tolerance = 0.501 * step  # a bound is rounded like any number: to an integer at most half a step away
    return step * record.low >= low - tolerance and step * record.high <= high + tolerance


def clipping_bounds(node: ir.Node) -> tuple[float, float]:
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
