"""One walk over a graph with a number in place of every symbolic size of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from getac.onnx_graph.node_checks import Contradiction
from getac.onnx_graph.node_inference import MAX_ELEMENTS, Array, NodeInference, prepare
from getac.onnx_graph.tensor_types import completed, declared_type, joined, sizes_of, tensor_type

__all__ = ["Misfit", "Operators", "Probe", "probe", "small_constant"]

_MAX_FLOATS = 16  # scales and sizes written as floats; whatever is longer is a weight
_Types = Sequence[onnx.TypeProto | None]
_Data = Sequence[Array | None]


class Misfit(Exception):
    """A node cannot run at the sizes of this probe; `inputs` and `data` are what it was given."""

    def __init__(self, node: ir.Node, message: str, inputs: _Types, data: _Data) -> None:
        super().__init__(message)
        self.node = node
        self.inputs = inputs
        self.data = data


@dataclass(frozen=True)
class Probe:
    """What one walk found: the types of values, the small values, and sizes of declared symbols."""

    symbols: Mapping[str, int]
    types: dict[ir.Value, onnx.TypeProto] = field(default_factory=dict)
    data: dict[ir.Value, Array] = field(default_factory=dict)

    def sizes(self, value: ir.Value) -> tuple[int, ...] | None:
        return sizes_of(self.types.get(value))


class Operators:
    """The nodes of a model, prepared once for all probes."""

    def __init__(self, opsets: Mapping[str, int]) -> None:
        self._opsets = opsets
        self._evaluators: dict[bytes, ReferenceEvaluator] = {}
        self._prepared: dict[ir.Node, NodeInference | None] = {}

    def __getitem__(self, node: ir.Node) -> NodeInference | None:
        if node not in self._prepared:
            self._prepared[node] = prepare(node, self._opsets, self._evaluators)
        return self._prepared[node]


def probe(
    graph: ir.Graph,
    operators: Operators,
    inputs: Mapping[ir.Value, onnx.TypeProto],
    constants: Mapping[ir.Value, Array],
    symbols: Mapping[str, int],
) -> Probe:
    """Walks the sorted graph once. Raises Misfit at the first node that cannot run at these sizes.

    Args:
        graph: The main graph.
        operators: Its nodes, prepared.
        inputs: The types of the graph's inputs at this probe.
        constants: Small stored values, see `small_constant`.
        symbols: Sizes for symbolic dimensions in the types that the file declares.
    """
    found = Probe(symbols, types=dict(inputs), data=dict(constants))
    _walk(graph, operators, found)
    return found


def small_constant(value: ir.Value) -> Array | None:
    """An initializer that can describe a shape: few integers, fewer floats. Weights stay unread."""
    tensor = value.const_value
    if tensor is None or tensor.size > MAX_ELEMENTS:
        return None
    if tensor.dtype.is_floating_point() and tensor.size > _MAX_FLOATS:
        return None
    if tensor.dtype == ir.DataType.STRING:
        return None
    array: Array = tensor.numpy()
    return array if array.dtype.kind in "biuf" else None


def _walk(graph: ir.Graph, operators: Operators, found: Probe) -> None:
    for value in graph.initializers.values():
        if value.const_value is not None:
            found.types[value] = tensor_type(value.const_value.dtype, value.const_value.shape.numpy())
            if value not in found.data and (constant := small_constant(value)) is not None:
                found.data[value] = constant
    for node in graph:
        _visit(node, operators, found)


def _visit(node: ir.Node, operators: Operators, found: Probe) -> None:
    data = [None if value is None else found.data.get(value) for value in node.inputs]
    values: _Data = [None] * len(node.outputs)
    if node.domain == "" and node.op_type == "If":
        types, values = _branches(node, data, operators, found)
    elif _has_body(node) or (operator := operators[node]) is None:
        types = [None] * len(node.outputs)
    else:
        inputs = [None if value is None else found.types.get(value) for value in node.inputs]
        try:
            types = operator.types(inputs, data)
        except Contradiction as error:
            raise Misfit(node, str(error), inputs, data) from error
        values = _size_values(node, inputs) or operator.values(data, types)
    for value, kind, array in zip(node.outputs, types, values, strict=True):
        _record(value, kind, array, found)


def _record(value: ir.Value, kind: onnx.TypeProto | None, array: Array | None, found: Probe) -> None:
    if array is not None:
        found.data[value] = array
        found.types[value] = tensor_type(array.dtype, array.shape)
        return
    if sizes_of(kind) is None:
        kind = completed(kind, declared_type(value, found.symbols))
    if kind is not None and kind.WhichOneof("value") is not None:
        found.types[value] = kind


def _size_values(node: ir.Node, inputs: _Types) -> Sequence[Array] | None:
    """The values of Shape and Size: this is where sizes become constants."""
    kind = inputs[0] if inputs else None
    if node.domain != "" or node.op_type not in ("Shape", "Size") or kind is None:
        return None
    if node.op_type == "Size":
        sizes = sizes_of(kind)
        return None if sizes is None else [np.array(np.prod(sizes, dtype=object), dtype=np.int64)]
    if not kind.tensor_type.HasField("shape"):
        return None
    start = node.attributes.get_int("start", 0)
    end = node.attributes.get_int("end", None)
    dims = list(kind.tensor_type.shape.dim)[start:end]
    if not all(dim.HasField("dim_value") for dim in dims) or len(dims) > MAX_ELEMENTS:
        return None
    return [np.array([dim.dim_value for dim in dims], dtype=np.int64)]


def _branches(node: ir.Node, data: _Data, operators: Operators, found: Probe) -> tuple[_Types, _Data]:
    """The outputs of an If: of the branch that is taken where that is known, else what both agree on."""
    branches = (node.attributes["then_branch"].as_graph(), node.attributes["else_branch"].as_graph())
    condition = data[0]
    if condition is not None and condition.size == 1:
        taken = branches[0] if condition.item() else branches[1]
        _walk(taken, operators, found)
        return _outputs(taken, found), [found.data.get(value) for value in taken.outputs]
    unknown: _Data = [None] * len(node.outputs)
    try:
        for branch in branches:
            _walk(branch, operators, found)
    except Misfit:  # a branch that cannot run is not taken, but which one it is was not to be known
        return [None] * len(node.outputs), unknown
    alternatives = zip(*(_outputs(branch, found) for branch in branches), strict=True)
    return [joined(one, other) for one, other in alternatives], unknown


def _outputs(graph: ir.Graph, found: Probe) -> _Types:
    return [found.types.get(value) for value in graph.outputs]


def _has_body(node: ir.Node) -> bool:
    return any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for attribute in node.attributes.values()
    )
