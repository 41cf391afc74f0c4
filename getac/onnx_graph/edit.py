"""Small edits of ONNX graphs that several passes share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

__all__ = [
    "NAMED_AFTER_RESULT",
    "Array",
    "add_initializer",
    "array_of",
    "is_stored",
    "naming",
    "own_input",
    "replace_tensor",
    "taken_names",
    "unique_name",
]

Array = npt.NDArray[Any]


def is_stored(value: ir.Value | None) -> bool:
    """Whether the value is a stored tensor of the graph."""
    return value is not None and value.is_initializer() and value.const_value is not None


def array_of(value: ir.Value | None) -> Array:
    """The numbers of a stored tensor."""
    assert value is not None and value.const_value is not None
    return value.const_value.numpy()


NAMED_AFTER_RESULT = ("QuantizeLinear", "DequantizeLinear")
"""Nodes that need no name in a file where it is that of what they make."""

NAMES: ContextVar[tuple[ir.Graph, set[str]] | None] = ContextVar("names", default=None)


@contextmanager
def naming(graph: ir.Graph) -> Iterator[None]:
    """Walks a graph for its names once, for what `unique_name` is asked inside; nothing else names here."""
    token = NAMES.set((graph, taken_names(graph)))
    try:
        yield
    finally:
        NAMES.reset(token)


def unique_name(graph: ir.Graph, wish: str, taken: set[str] | None = None) -> str:
    """A name that no value or node of the graph has; `taken` avoids a walk where many are made."""
    known = NAMES.get()
    if taken is None:
        taken = known[1] if known is not None and known[0] is graph else taken_names(graph)
    name, count = wish, 0
    while name in taken:
        count += 1
        name = f"{wish}_{count}"
    taken.add(name)
    return name


def taken_names(graph: ir.Graph) -> set[str]:
    """The names of all values and nodes of a graph and its subgraphs; onnxruntime wants both unique."""
    names: set[str | None] = set()
    for one in (graph, *graph.subgraphs()):
        names.update(value.name for value in (*one.inputs, *one.initializers.values()))
        for node in one:
            names.update((node.name, *(value.name for value in node.outputs)))
    return {name for name in names if name}


def add_initializer(graph: ir.Graph, wish: str, array: Array, dtype: ir.DataType | None = None) -> ir.Value:
    """Stores a tensor under a free name close to the wish."""
    name = unique_name(graph, wish)
    tensor = ir.tensor(array, dtype=dtype, name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def replace_tensor(value: ir.Value, array: Array) -> None:
    """Gives a stored tensor other numbers, of the same type."""
    assert value.const_value is not None
    value.const_value = ir.tensor(array, dtype=value.const_value.dtype, name=value.name)
    value.shape = ir.Shape(array.shape)


def own_input(node: ir.Node, index: int) -> ir.Value:
    """The stored tensor of a node's input, which no other use shares: a copy where one does."""
    value, graph = node.inputs[index], node.graph
    assert value is not None and isinstance(graph, ir.Graph)
    if len(value.uses()) == 1 and not value.is_graph_output():
        return value
    copy = add_initializer(
        graph, f"{value.name}_of_{node.name or node.op_type}", array_of(value), value.dtype
    )
    node.replace_input_with(index, copy)
    return copy


def set_input(node: ir.Node, index: int, value: ir.Value | None) -> None:
    """Sets an input, adding absent ones before it."""
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def insert_after(node: ir.Node, new: ir.Node) -> None:
    """Puts a node behind another one and gives it all other uses of that one's output."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    output = node.outputs[0]
    uses = [(user, index) for user, index in output.uses() if user is not new]
    graph.insert_after(node, new)
    for user, index in uses:
        user.replace_input_with(index, new.outputs[0])
    if output.is_graph_output():
        swap_output_name(graph, output, new.outputs[0])


def swap_output_name(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Makes `new` the graph output that `old` was, under the same name."""
    position = list(graph.outputs).index(old)
    new.type, new.shape = old.type, old.shape
    name = old.name
    old.name = unique_name(graph, f"{name}_before")
    new.name = name
    graph.outputs[position] = new


def consumers(value: ir.Value) -> Sequence[ir.Node]:
    """The nodes that read a value, each once."""
    return list(dict.fromkeys(node for node, _ in value.uses()))
