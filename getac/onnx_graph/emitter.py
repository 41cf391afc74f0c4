"""Makes the nodes that an operator is spelled out with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, helper

from getac.onnx_graph.functions import Names

__all__ = ["Dimensions", "Emitter", "Types", "dimensions", "element_type"]

Types = Mapping[str, onnx.TypeProto]
Dimensions = tuple["int | str | None", ...]


def element_type(types: Types, name: str) -> int:
    """A value's element type, UNDEFINED where it is not known."""
    return types[name].tensor_type.elem_type if name in types else TensorProto.UNDEFINED


def dimensions(types: Types, name: str) -> Dimensions | None:
    """A value's dimensions: numbers, symbols, or None for what is not known."""
    if name not in types or not types[name].tensor_type.HasField("shape"):
        return None
    return tuple(
        d.dim_value if d.HasField("dim_value") else d.dim_param or None
        for d in types[name].tensor_type.shape.dim
    )


@dataclass
class Emitter:
    """Collects nodes, in the order in which they compute.

    Args:
        label: What their names begin with.
        dtype: The element type of real numbers.
    """

    label: str
    dtype: int
    names: Names
    made: list[onnx.NodeProto] = field(default_factory=list)

    def __call__(self, operator: str, *inputs: str, output: str = "", **attributes: int | list[int]) -> str:
        """Adds a node with one output, which gets a name of its own unless one is given."""
        name = self.names.fresh(f"{self.label}/{operator}")
        node = helper.make_node(operator, list(inputs), [output or name], name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.made.append(node)
        return output or name

    def halves(self, x: str) -> tuple[str, str]:
        """A value cut in two along its last dimension."""
        names = [self.names.fresh(f"{self.label}/Split") for _ in range(2)]
        self.made.append(helper.make_node("Split", [x], names, names[0], axis=-1, num_outputs=2))
        return names[0], names[1]

    def integers(self, *numbers: int) -> str:
        return self._constant(helper.make_tensor("", TensorProto.INT64, [len(numbers)], numbers))

    def integer(self, number: int) -> str:
        return self._constant(helper.make_tensor("", TensorProto.INT64, [], [number]))

    def real(self, number: float) -> str:
        """A number of the type `dtype`."""
        return self._constant(helper.make_tensor("", self.dtype, [], [number]))

    def truth(self, value: bool) -> str:
        return self._constant(helper.make_tensor("", TensorProto.BOOL, [], [value]))

    def _constant(self, tensor: onnx.TensorProto) -> str:
        name = self.names.fresh(f"{self.label}/Constant")
        self.made.append(helper.make_node("Constant", [], [name], name, value=tensor))
        return name

    def length(self, value: str, dimension: int) -> str:
        """The size of one dimension, as a list."""
        return self("Shape", value, start=dimension, end=dimension + 1)

    def counting(self, length: str) -> str:
        """0, 1, ... up to a length."""
        stop = self("Squeeze", length, self.integers(0))
        return self("Range", self.integer(0), stop, self.integer(1))
