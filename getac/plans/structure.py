"""The structure of an analysed graph: all that two checkpoints of one architecture have in common.

Operators, attributes, edges, shapes, the names of parameters and the sizes and indices among them; no
weights, and nothing of the file, of names of nodes, or of what symbolic sizes are called.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from getac.onnx_graph.shapes import Dim, Shapes

__all__ = ["Operation", "Structure", "Tensor", "structure_of"]

UNKNOWN = "?"
SHOWN = 8
EXACT = (ir.DataType.INT64, ir.DataType.BOOL)
"""Sizes, indices and switches: other numbers make another graph. Integers of other types may be weights."""


@dataclass(frozen=True)
class Tensor:
    """A graph input, or a stored tensor.

    Args:
        shape: Such as "64 x 3 x 7 x 7"; symbolic sizes are N, N1, ... in the order of their appearance.
        contents: What is in it, where that is part of the structure: a list, or a hash of a long one.
    """

    name: str
    type: str
    shape: str
    contents: str = ""


@dataclass(frozen=True)
class Operation:
    """A node.

    Args:
        name: In the file; not compared.
        attributes: Sorted, as text.
        inputs: The name of a stored tensor, `<i>` for graph input i, `#n` for what node n makes (`#n.k` for
            its output k); empty where an input is left out.
        shapes: Of its outputs.
    """

    name: str
    operator: str
    attributes: str
    inputs: tuple[str, ...]
    shapes: tuple[str, ...]


@dataclass(frozen=True)
class Structure:
    """A graph without its numbers; compared by `hash`."""

    inputs: tuple[Tensor, ...] = field(repr=False)
    parameters: tuple[Tensor, ...] = field(repr=False)
    operations: tuple[Operation, ...] = field(repr=False)
    outputs: tuple[str, ...] = field(repr=False)

    @cached_property
    def hash(self) -> str:
        inputs = [(one.type, one.shape) for one in self.inputs]
        parameters = [(one.name, one.type, one.shape, one.contents) for one in self.parameters]
        operations = [(one.operator, one.attributes, one.inputs, one.shapes) for one in self.operations]
        content = json.dumps([inputs, sorted(parameters), operations, self.outputs])
        return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"

    def as_content(self) -> dict[str, Any]:
        """As a plan has it."""
        return {"hash": self.hash, **asdict(self)}


def structure_of(model: ir.Model, shapes: Shapes) -> Structure:
    """The structure of a model whose constants are initializers and whose nodes are sorted."""
    return Reader(shapes, symbol_names(model.graph, shapes)).structure(model.graph)


def symbol_names(graph: ir.Graph, shapes: Shapes) -> dict[str, str]:
    dims = [dim for value in graph.inputs for dim in shapes.dims.get(value, ())]
    found = dict.fromkeys(symbol for dim in dims for symbol in dim.symbols)
    return {symbol: f"N{position or ''}" for position, symbol in enumerate(found)}


@dataclass
class Reader:
    """Walks one graph; `references` are the values seen so far."""

    shapes: Shapes
    symbols: Mapping[str, str]
    references: dict[ir.Value, str] = field(default_factory=dict)

    def structure(self, graph: ir.Graph) -> Structure:
        stored = list(graph.initializers.values())
        self.references.update({value: f"<{i}>" for i, value in enumerate(graph.inputs)})
        self.references.update({value: str(value.name) for value in stored})
        return Structure(
            tuple(self.tensor(value) for value in graph.inputs),
            tuple(self.tensor(value) for value in stored),
            tuple(self.operations(graph, "#")),
            tuple(map(self.reference, graph.outputs)),
        )

    def tensor(self, value: ir.Value) -> Tensor:
        dtype = self.shapes.dtypes.get(value, value.dtype)
        name = UNKNOWN if dtype is None else dtype.name.lower()
        return Tensor(str(value.name), name, self.shape(value), contents(value.const_value))

    def shape(self, value: ir.Value) -> str:
        dims = self.shapes.dims.get(value)
        return UNKNOWN if dims is None else sizes_text(map(self.size, dims))

    def size(self, dim: Dim) -> str:
        if dim.constant is None:
            return UNKNOWN
        symbols = [self.symbols.get(one, one) for one in dim.symbols]
        return "*".join([str(dim.constant)] * (dim.constant != 1 or not symbols) + symbols)

    def operations(self, graph: ir.Graph, prefix: str) -> Iterable[Operation]:
        for position, node in enumerate(graph):
            own = f"{prefix}{position}"
            attributes = sorted(node.attributes.items())
            text = ", ".join(f"{key}={self.attribute(one, own)}" for key, one in attributes)
            inputs = tuple(map(self.reference, node.inputs))
            shapes = tuple(self.shape(value) for value in node.outputs)
            for index, value in enumerate(node.outputs):
                self.references[value] = own if index == 0 else f"{own}.{index}"
            yield Operation(node.name or "", operator_of(node), text, inputs, shapes)

    def reference(self, value: ir.Value | None) -> str:
        return "" if value is None else self.references.get(value, str(value.name))

    def attribute(self, attribute: ir.Attr, own: str) -> str:
        value = attribute.value
        if isinstance(value, ir.Graph):
            return self.branch(value, own)
        if isinstance(value, ir.TensorProtocol):
            return f"{value.dtype.name.lower()}[{sizes_text(value.shape.numpy())}]{contents(value)}"
        if isinstance(value, Sequence) and any(isinstance(one, ir.Graph) for one in value):
            return ", ".join(self.branch(one, own) for one in value)
        return str(list(value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)

    def branch(self, graph: ir.Graph, own: str) -> str:
        """A subgraph as text."""
        for value in graph.initializers.values():
            self.references[value] = f"{self.shape(value)} {contents(value.const_value)}"
        parts = [
            f"{one.operator}({', '.join(one.inputs)}; {one.attributes}): {', '.join(one.shapes)}"
            for one in self.operations(graph, f"{own}/")
        ]
        return f"{{{'; '.join(parts)} -> {', '.join(map(self.reference, graph.outputs))}}}"


def operator_of(node: ir.Node) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def sizes_text(sizes: Iterable[object]) -> str:
    return " x ".join(map(str, sizes)) or "scalar"


def contents(tensor: ir.TensorProtocol | None) -> str:
    """The numbers of a tensor of sizes, indices or switches."""
    if tensor is None or tensor.dtype not in EXACT:
        return ""
    array = np.ascontiguousarray(tensor.numpy())
    if array.size <= SHOWN:
        return str(array.tolist())
    return f"sha256:{hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
