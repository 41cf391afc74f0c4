"""One walk over a graph with a number in place of every symbolic size of its inputs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from getac.onnx_graph.node_checks import Contradiction
from getac.onnx_graph.node_inference import (
    MAX_ELEMENTS,
    Array,
    Data,
    Kinds,
    NodeInference,
    prepare,
    signature_of,
)
from getac.onnx_graph.tensor_types import Kind, completed, declared_type, joined, sizes_of, tensor_type

__all__ = ["Misfit", "Operators", "Probe", "Stored", "probe"]

_MAX_FLOATS = 16  # scales and sizes written as floats; whatever is longer is a weight


class Misfit(Exception):
    """A node cannot run at the sizes of this probe; `inputs` and `data` are what it was given."""

    def __init__(self, node: ir.Node, message: str, inputs: Kinds, data: Data) -> None:
        super().__init__(message)
        self.node = node
        self.inputs = inputs
        self.data = data


@dataclass(frozen=True)
class Probe:
    """What one walk found: the types of values, the small values, and sizes of declared symbols."""

    symbols: Mapping[str, int]
    types: dict[ir.Value, Kind] = field(default_factory=dict)
    data: dict[ir.Value, Array] = field(default_factory=dict)

    def sizes(self, value: ir.Value) -> tuple[int, ...] | None:
        return sizes_of(self.types.get(value))


@dataclass(frozen=True)
class Stored:
    """The types of a graph's initializers, and the small ones among their values."""

    types: Mapping[ir.Value, Kind]
    data: Mapping[ir.Value, Array]


class Operators:
    """The nodes and the initializers of a model, prepared once for all probes."""

    def __init__(self, opsets: Mapping[str, int]) -> None:
        self._opsets = opsets
        self._by_signature: dict[Hashable, NodeInference | None] = {}
        self._prepared: dict[ir.Node, NodeInference | None] = {}
        self._stored: dict[ir.Graph, Stored] = {}

    def __getitem__(self, node: ir.Node) -> NodeInference | None:
        """What infers a node; None where nothing can."""
        if node not in self._prepared:
            signature = signature_of(node)
            if signature not in self._by_signature:
                self._by_signature[signature] = prepare(node, self._opsets)
            self._prepared[node] = self._by_signature[signature]
        return self._prepared[node]

    def stored(self, graph: ir.Graph) -> Stored:
        if graph not in self._stored:
            self._stored[graph] = _read(graph)
        return self._stored[graph]


def probe(
    graph: ir.Graph, operators: Operators, inputs: Mapping[ir.Value, Kind], symbols: Mapping[str, int]
) -> Probe:
    """Walks the sorted graph once. Raises Misfit at the first node that cannot run at these sizes.

    Args:
        graph: The main graph.
        operators: Its nodes, prepared.
        inputs: The types of the graph's inputs at this probe.
        symbols: Sizes for symbolic dimensions in the types that the file declares.
    """
    found = Probe(symbols, types=dict(inputs))
    _walk(graph, operators, found)
    return found


def _read(graph: ir.Graph) -> Stored:
    types: dict[ir.Value, Kind] = {}
    data: dict[ir.Value, Array] = {}
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None:
            continue
        types[value] = tensor_type(tensor.dtype, tensor.shape.numpy())
        if (array := _small_constant(tensor)) is not None:
            data[value] = array
    return Stored(types, data)


def _small_constant(tensor: ir.TensorProtocol) -> Array | None:
    """A tensor that can describe a shape: few integers, fewer floats. Weights stay unread."""
    size = tensor.size
    if size > MAX_ELEMENTS or (size > _MAX_FLOATS and tensor.dtype.is_floating_point()):
        return None
    if tensor.dtype == ir.DataType.STRING:
        return None
    array: Array = tensor.numpy()
    return array if array.dtype.kind in "biuf" else None


def _walk(graph: ir.Graph, operators: Operators, found: Probe) -> None:
    stored = operators.stored(graph)
    found.types.update(stored.types)
    found.data.update(stored.data)
    for node in graph:
        _visit(node, operators, found)


def _visit(node: ir.Node, operators: Operators, found: Probe) -> None:
    data = [None if value is None else found.data.get(value) for value in node.inputs]
    types: Kinds = [None] * len(node.outputs)
    values: Data = [None] * len(node.outputs)
    if node.op_type == "If" and node.domain == "":
        types, values = _branches(node, data, operators, found)
    elif (operator := operators[node]) is not None:
        inputs = [None if value is None else found.types.get(value) for value in node.inputs]
        try:
            types, values = operator.outputs(inputs, data)
        except Contradiction as error:
            raise Misfit(node, str(error), inputs, data) from error
    for value, kind, array in zip(node.outputs, types, values, strict=True):
        _record(value, kind, array, found)


def _record(value: ir.Value, kind: Kind | None, array: Array | None, found: Probe) -> None:
    if array is not None:
        found.data[value] = array
        found.types[value] = tensor_type(array.dtype, array.shape)
        return
    if sizes_of(kind) is None:
        kind = completed(kind, declared_type(value, found.symbols))
    if kind is not None:
        found.types[value] = kind


def _branches(node: ir.Node, data: Data, operators: Operators, found: Probe) -> tuple[Kinds, Data]:
    """The outputs of an If: of the branch that is taken where that is known, else what both agree on."""
    branches = (node.attributes["then_branch"].as_graph(), node.attributes["else_branch"].as_graph())
    condition = data[0]
    if condition is not None and condition.size == 1:
        taken = branches[0] if condition.item() else branches[1]
        _walk(taken, operators, found)
        return _outputs(taken, found), [found.data.get(value) for value in taken.outputs]
    unknown: Data = [None] * len(node.outputs)
    try:
        for branch in branches:
            _walk(branch, operators, found)
    except Misfit:  # a branch that cannot run is not taken, but which one it is was not to be known
        return [None] * len(node.outputs), unknown
    alternatives = zip(*(_outputs(branch, found) for branch in branches), strict=True)
    return [joined(one, other) for one, other in alternatives], unknown


def _outputs(graph: ir.Graph, found: Probe) -> Kinds:
    return [found.types.get(value) for value in graph.outputs]
