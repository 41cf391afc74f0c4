"""Writes packed tensors, and the nodes that restore them when a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from getac.kernels.packing import digits_per_byte, lookup_table, pack_digits
from getac.onnx_graph.edit import Array, array_of, taken_names, unique_name
from getac.onnx_graph.packing.ways import COMPUTED_AS, Packing, Part

__all__ = ["Packer", "numbers_of"]

NODE_BYTES, TENSOR_BYTES = 30, 20
"""What a node and a stored tensor take in a file, beside names and data."""


@dataclass
class Packer:
    """Replaces stored tensors of a graph by packed ones; tables and other constants are written once.

    Call `finish` in the end.
    """

    graph: ir.Graph
    names: set[str] = field(init=False)
    constants: dict[tuple[object, ...], ir.Value] = field(default_factory=dict)
    nodes: list[ir.Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = taken_names(self.graph)

    def nbytes(self, value: ir.Value, packing: Packing) -> int:
        """Bytes in the file that a packed tensor needs, with its nodes and what no tensor before it has."""
        array, name = numbers_of(value), len(value.name or "")
        tables = [part for part in packing.parts if part.native is None]
        new = [part for part in tables if table_key(part, array) not in self.constants]
        narrow = value.dtype is not ir.DataType.from_numpy(array.dtype)
        nodes = sum(nodes_of(part, array) for part in packing.parts) + len(packing.parts) - 1 + narrow
        return (
            packing.nbytes(array.size)
            + nodes * (NODE_BYTES + 3 * name)
            + len(packing.parts) * (TENSOR_BYTES + name)
            + sum(table_size(part.count) * array.itemsize for part in new)
        )

    def pack(self, value: ir.Value, packing: Packing) -> None:
        """Gives all readers of a stored tensor what restores it, under its name; the tensor goes."""
        array, name = numbers_of(value), str(value.name)
        terms = [self.term(name, array, packing, part) for part in packing.parts]
        restored = terms[0]
        for term in terms[1:]:
            restored = self.node("Add", [restored, term], f"{name}.sum")
        if ir.DataType.from_numpy(array.dtype) is not value.dtype and value.dtype is not None:
            restored = self.node("Cast", [restored], f"{name}.narrow", to=int(value.dtype))
        for user, index in list(value.uses()):
            user.replace_input_with(index, restored)
        self.graph.initializers.pop(name)
        producer = restored.producer()
        assert producer is not None
        restored.name = producer.name = name
        restored.type, restored.shape = value.type, value.shape

    def term(self, name: str, array: Array, packing: Packing, part: Part) -> ir.Value:
        """What one part adds to the tensor."""
        numbers = part.numbers(packing.above_offset(array))
        if part.native is None:
            return self.looked_up(f"{name}.{part}", array, numbers, part)
        stored = self.stored(f"{name}.{part.native.name.lower()}", numbers.astype(part.native.numpy()))
        restored = self.node("Cast", [stored], f"{name}.cast", to=int(ir.DataType.from_numpy(array.dtype)))
        if part.unit == 1:
            return restored
        unit = self.constant(("unit", part.unit, array.dtype), np.asarray(part.unit, array.dtype))
        return self.node("Mul", [restored, unit], f"{name}.scaled")

    def looked_up(self, name: str, like: Array, numbers: Array, part: Part) -> ir.Value:
        table = self.constant(
            table_key(part, like), lookup_table(part.count, part.unit, part.start, like.dtype)
        )
        digits = numbers - numbers.dtype.type(part.least)
        stored = self.stored(name, pack_digits(digits, part.count))
        rows = self.node("Cast", [stored], f"{name}.rows", to=int(ir.DataType.INT32))
        restored = self.node("Gather", [table, rows], f"{name}.digits")
        if like.size % digits_per_byte(part.count):  # the last byte holds more than there is
            restored = self.node("Reshape", [restored, self.integers(-1)], f"{name}.flat")
            ends = [self.integers(0), self.integers(like.size)]
            restored = self.node("Slice", [restored, *ends], f"{name}.cut")
        return self.node("Reshape", [restored, self.integers(*like.shape)], f"{name}.shaped")

    def integers(self, *numbers: int) -> ir.Value:
        return self.constant(("integers", *numbers), np.asarray(numbers, np.int64))

    def constant(self, key: tuple[object, ...], array: Array) -> ir.Value:
        if key not in self.constants:
            self.constants[key] = self.stored(".".join(map(str, key)), array)
        return self.constants[key]

    def stored(self, wish: str, array: Array) -> ir.Value:
        tensor = ir.tensor(array, name=unique_name(self.graph, wish.replace(" ", ""), self.names))
        value = ir.Value(
            name=tensor.name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.graph.register_initializer(value)
        return value

    def node(self, op_type: str, inputs: Sequence[ir.Value], name: str, **attributes: int) -> ir.Value:
        name = unique_name(self.graph, name, self.names)
        node = ir.node(op_type, inputs, attributes, name=name)
        node.outputs[0].name = name
        self.nodes.append(node)
        return node.outputs[0]

    def finish(self) -> None:
        """Puts the nodes in front of all others."""
        if self.nodes:
            self.graph.insert_before(self.graph[0], self.nodes)
        self.nodes = []


def nodes_of(part: Part, like: Array) -> int:
    """Cast, and Mul; or Cast, Gather and Reshape, with Reshape and Slice where the last byte is not full."""
    if part.native is not None:
        return 1 if part.unit == 1 else 2
    return 5 if like.size % digits_per_byte(part.count) else 3


def table_key(part: Part, like: Array) -> tuple[object, ...]:
    return "table", part.count, part.unit, part.start, like.dtype


def table_size(base: int) -> int:
    """Entries of a table: a row per byte, a column per digit."""
    places = digits_per_byte(base)
    return int(base**places) * places


def numbers_of(value: ir.Value) -> Array:
    """The integers of a stored tensor, of a type that NumPy and onnxruntime compute with."""
    assert value.dtype is not None
    return array_of(value).astype(COMPUTED_AS[value.dtype].numpy(), copy=False)
