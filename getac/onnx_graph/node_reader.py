"""Reads a node's attributes and constant inputs for the operator tables."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from getac.onnx_graph.shapes import Shapes

__all__ = ["NodeReader", "NotConstant"]


class NotConstant(Exception):
    """An argument that the rule needs is computed when the graph runs, or is of a kind without a rule."""


@dataclass(frozen=True)
class NodeReader:
    """Reads a node's arguments in normal form: counted from the front, defaults filled in."""

    node: ir.Node
    shapes: Shapes

    def has(self, name: str) -> bool:
        return name in self.node.attributes

    def integer(self, name: str, default: int) -> int:
        return self.node.attributes[name].as_int() if self.has(name) else default

    def real(self, name: str, default: float) -> float:
        return self.node.attributes[name].as_float() if self.has(name) else default

    def text(self, name: str, default: str) -> str:
        return self.node.attributes[name].as_string() if self.has(name) else default

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(self.node.attributes[name].as_strings()) if self.has(name) else ()

    def integers(self, name: str) -> tuple[int, ...] | None:
        return tuple(self.node.attributes[name].as_ints()) if self.has(name) else None

    def input(self, index: int) -> ir.Value | None:
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def is_stored(self, index: int) -> bool:
        """Whether an input is a tensor of the graph, whose entries can be rewritten."""
        value = self.input(index)
        return value is not None and value.is_initializer()

    def numbers(self, index: int) -> tuple[int, ...] | None:
        """The entries of a constant integer input; None if the input is absent."""
        value = self.input(index)
        if value is None:
            return None
        array = self.shapes.constants.get(value)
        if array is None:
            raise NotConstant(f"its input {value.name} is not constant")
        return tuple(int(number) for number in array.reshape(-1))

    def rank(self, index: int = 0) -> int:
        return len(self.sizes(index))

    def sizes(self, index: int = 0) -> tuple[int, ...]:
        value = self.input(index)
        sizes = self.shapes.sizes(value) if value is not None else None
        if value is None or sizes is None:
            raise NotConstant("the shape of an input is not known")
        return sizes

    def is_integer(self, index: int = 0) -> bool:
        """Whether an input holds integers that sizes can be computed with."""
        value = self.input(index)
        dtype = self.shapes.dtypes.get(value) if value is not None else None
        return dtype in (ir.DataType.INT32, ir.DataType.INT64)

    def axis(self, default: int, name: str = "axis", index: int = 0) -> int:
        return self.integer(name, default) % max(self.rank(index), 1)
