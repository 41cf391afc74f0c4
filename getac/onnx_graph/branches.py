"""Parts of a graph that are run by themselves: branches of constants, and functions of one value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from getac.onnx_graph.edit import Array, array_of, is_stored
from getac.runtime import open_session, run

__all__ = ["ELEMENTWISE", "Branches"]

ELEMENTWISE = frozenset(
    (
        *("Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Clip", "Div", "Equal", "Exp", "Floor", "Greater"),
        *("GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Log", "Max", "Min", "Mul", "Neg", "Not"),
        *("Or", "Pow", "Reciprocal", "Relu", "Round", "Sign", "Sqrt", "Sub", "Sum", "Tanh", "Where"),
    )
)
"""Operators that compute every entry of their result from the entries at the same place."""

RANDOM = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)
STANDARD = ("", "ai.onnx")
LONGEST_REGION = 64


class Branches:
    """A graph as a store of small functions that onnxruntime can be asked for.

    Attributes:
        constants: The nodes that compute the same from stored tensors alone, whenever they run.
    """

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        self.opsets = dict(model.opset_imports)
        self.constants = constant_nodes(model.graph)
        self._scalars: dict[ir.Value, float | None] = {}

    def is_constant(self, value: ir.Value) -> bool:
        return is_stored(value) or value.producer() in self.constants

    def result(self, value: ir.Value) -> Array:
        """What is computed for a value that depends on stored tensors alone."""
        return self.results([value])[0]

    def results(self, values: Sequence[ir.Value]) -> list[Array]:
        """What is computed for values that depend on stored tensors alone."""
        return self._run(self.behind(values), {}, values) if values else []

    def on(self, x: ir.Value, points: Array, wanted: Sequence[ir.Value]) -> list[Array]:
        """Values that are functions of x alone, at points."""
        nodes = self.behind(wanted, {x})
        return [result.reshape(points.shape) for result in self._run(nodes, {x: points}, wanted)]

    def sources(self, node: ir.Node, most: int) -> Iterator[ir.Value]:
        """The values that all a node depends on goes through, nearest first."""
        front = self._free(node)
        for _ in range(most):
            if len(front) == 1:
                yield next(iter(front))
            last = max(front, key=self._position, default=None)
            producer = last.producer() if last is not None else None
            if last is None or producer is None or not is_elementwise(producer):
                return
            front = (front - {last}) | self._free(producer)

    def region(self, x: ir.Value) -> list[ir.Node]:
        """The elementwise nodes, in order, that compute from a value and from single numbers alone."""
        known, found = {x}, list[ir.Node]()
        for node in self.graph:
            if not is_elementwise(node) or node in self.constants or len(found) == LONGEST_REGION:
                continue
            free = self._free(node)
            fixed = [value for value in node.inputs if value is not None and self.is_constant(value)]
            if free and free <= known and all(self._scalar(value) is not None for value in fixed):
                found.append(node)
                known.update(node.outputs)
        return found

    def later(self, node: ir.Node, region: Sequence[ir.Node]) -> list[ir.Value]:
        """What a node of a region makes, and what the region makes of it, in order."""
        if node not in region:
            return []
        made = {node.outputs[0]: None}
        for one in region[region.index(node) + 1 :]:
            read = one.inputs[:1] if one.op_type == "CastLike" else one.inputs  # the other is but a type
            if any(value in made for value in read if value is not None):
                made[one.outputs[0]] = None
        return [value for value in made if value.dtype in (None, ir.DataType.FLOAT) and not is_integer(value)]

    def numbers(self, x: ir.Value, y: ir.Value) -> list[float]:
        """The single numbers that y is computed with from x."""
        read = {value: None for node in self.behind([y], {x}) for value in node.inputs if value is not None}
        found = [self._scalar(value) for value in read if self.is_constant(value)]
        return [number for number in found if number is not None]

    def behind(self, values: Iterable[ir.Value], ends: set[ir.Value] | None = None) -> set[ir.Node]:
        """The nodes that compute values, up to some."""
        stop = ends or set()
        found: set[ir.Node] = set()
        left = [value for value in values if value not in stop]
        while left:
            producer = left.pop().producer()
            if producer is not None and producer not in found:
                found.add(producer)
                left += [value for value in producer.inputs if value is not None and value not in stop]
        return found

    def _free(self, node: ir.Node) -> set[ir.Value]:
        return {value for value in node.inputs if value is not None and not self.is_constant(value)}

    def _position(self, value: ir.Value) -> int:
        producer = value.producer()
        return self._order.get(producer, -1) if producer is not None else -1

    @property
    def _order(self) -> Mapping[ir.Node, int]:
        if not hasattr(self, "_positions"):
            self._positions = {node: position for position, node in enumerate(self.graph)}
        return self._positions

    def _scalar(self, value: ir.Value) -> float | None:
        """The single number that a constant is, None for another one."""
        if value not in self._scalars:
            stored = value.const_value if is_stored(value) else None
            array = None
            if stored is None or stored.size == 1:
                array = self.result(value) if stored is None else stored.numpy()
            single = array is not None and array.size == 1 and array.dtype.kind != "O"
            self._scalars[value] = float(array.item()) if array is not None and single else None
        return self._scalars[value]

    def _run(
        self, nodes: set[ir.Node], feeds: Mapping[ir.Value, Array], wanted: Sequence[ir.Value]
    ) -> list[Array]:
        """Runs some nodes under onnxruntime, as they are written."""
        part = Part(feeds)
        for node in self.graph:
            if node in nodes:
                part.add(node)
        return part.run(feeds, wanted, self.opsets)


class Part:
    """A copy of some nodes, as a model of its own."""

    def __init__(self, feeds: Mapping[ir.Value, Array]) -> None:
        self.copies: dict[ir.Value, ir.Value] = {}
        self.nodes: list[ir.Node] = []
        self.stored: list[ir.Value] = []
        for value, array in feeds.items():
            kind = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            name = f"in{len(self.copies)}"
            self.copies[value] = ir.Value(name=name, shape=ir.Shape(array.shape), type=kind)

    def add(self, node: ir.Node) -> None:
        inputs = [None if value is None else self.copy_of(value) for value in node.inputs]
        outputs = [ir.Value(name=f"value{len(self.nodes)}.{i}") for i in range(len(node.outputs))]
        attributes = list(node.attributes.values())
        name = f"node{len(self.nodes)}"
        self.nodes.append(ir.Node(node.domain, node.op_type, inputs, attributes, outputs=outputs, name=name))
        self.copies.update(zip(node.outputs, outputs, strict=True))

    def copy_of(self, value: ir.Value) -> ir.Value:
        """The copy of a value; of a stored tensor, the first time, a new one that shares its numbers.

        The tensor itself stays with its owner: a value that is renamed renames its tensor.
        """
        if value not in self.copies:
            copy = ir.Value(name=f"stored{len(self.stored)}", shape=value.shape, type=value.type)
            copy.const_value = shared(value.const_value) if value.const_value is not None else None
            self.stored.append(copy)
            self.copies[value] = copy
        return self.copies[value]

    def run(
        self, feeds: Mapping[ir.Value, Array], wanted: Sequence[ir.Value], opsets: dict[str, int]
    ) -> list[Array]:
        inputs, outputs = [self.copies[value] for value in feeds], [self.copies[value] for value in wanted]
        graph = ir.Graph(
            inputs, outputs, nodes=self.nodes, initializers=self.stored, opset_imports=opsets, name="part"
        )
        session = open_session(ir.Model(graph, ir_version=10), optimize=False)
        arrays = zip(inputs, feeds.values(), strict=True)
        found = run(session, {str(value.name): np.asarray(array) for value, array in arrays})
        return [found[str(value.name)] for value in outputs]


def constant_nodes(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that compute from stored tensors alone."""
    known = {value for value in graph.initializers.values() if is_stored(value)}
    found: set[ir.Node] = set()
    for node in graph:
        read = [value for value in node.inputs if value is not None]
        alike = node.domain in STANDARD and not is_random(node) and not has_graphs(node)
        if alike and read and all(value in known for value in read):
            found.add(node)
            known.update(node.outputs)
    return found


def is_random(node: ir.Node) -> bool:
    """Whether a node gives something else whenever it runs; a Dropout does where it is told to train."""
    mode = node.inputs[2] if node.op_type == "Dropout" and len(node.inputs) > 2 else None
    trains = mode is not None and not (is_stored(mode) and not array_of(mode).any())
    return node.op_type in RANDOM or trains


def has_graphs(node: ir.Node) -> bool:
    """Whether a node runs graphs of its own, which may read anything around them."""
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attribute.type in kinds for attribute in node.attributes.values())


def shared(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """A tensor of its own with the numbers of another one."""
    return ir.LazyTensor(lambda: tensor, tensor.dtype, ir.Shape(tensor.shape.numpy()), name=tensor.name)


def is_elementwise(node: ir.Node) -> bool:
    return node.op_type in ELEMENTWISE and node.domain in STANDARD


def is_integer(value: ir.Value) -> bool:
    """Whether a Cast makes integers of it, or a comparison truth values."""
    node = value.producer()
    if node is None:
        return False
    to = ir.DataType(node.attributes.get_int("to", 0)) if node.op_type == "Cast" else None
    logical = node.op_type in (
        "And",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Not",
        "Or",
    )
    return logical or (to is not None and to is not ir.DataType.FLOAT)
