"""Constants of an onnx-graphsurgeon Graph that stand for tensors of a model, and load when they are read.

Imports onnx-graphsurgeon, which is an extra: `onnx_graph.surgery` asks for it first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_graphsurgeon import Constant, Graph
from onnx_graphsurgeon.ir.tensor import LazyValues

__all__ = ["Shelf"]

Array = np.ndarray[Any, Any]


@dataclass
class Shelf:
    """What the constants of a Graph stand for.

    Args:
        tensors: By the key that stands in the place of a file's name.
        referring: Whether exported constants name their tensors; otherwise they hold the numbers, as
            `fold_constants` and whatever else runs a part of the Graph needs them.
        loaded: The arrays that were read, by their `id`; kept, so that no other array gets it.
    """

    tensors: dict[str, ir.TensorProtocol]
    referring: bool = False
    loaded: dict[int, tuple[Array, Lent]] = field(default_factory=dict)

    def lend(self, graph: Graph) -> None:
        """Lets every constant that refers to a tensor load it, those read in subgraphs alone included."""
        for constant in constants(graph):
            held = constant._values  # reading `.values` would load it
            if (
                isinstance(held, LazyValues)
                and not isinstance(held, Lent)
                and key_of(held.tensor) in self.tensors
            ):
                constant._values = Lent(held.tensor, self)
                constant.data_location = None  # of whatever the user puts in its place

    def take_back(self, graph: Graph) -> None:
        """Lets constants that were read and not changed stand for their tensors again."""
        for constant in constants(graph):
            array, lent = self.loaded.get(id(constant._values), (None, None))
            if lent is not None and array is not None and array.tobytes() == lent.original.numpy().tobytes():
                constant._values = lent

    @contextmanager
    def references(self) -> Iterator[None]:
        self.referring = True
        try:
            yield
        finally:
            self.referring = False


class Lent(LazyValues):  # type: ignore[misc]  # the library has no types
    """The numbers of a tensor; an array of its own for whoever reads them, who may edit it."""

    def __init__(self, reference: onnx.TensorProto, shelf: Shelf) -> None:
        self.shelf = shelf
        super().__init__(reference)

    @property
    def original(self) -> ir.TensorProtocol:
        return self.shelf.tensors[key_of(self.reference)]

    @property
    def tensor(self) -> onnx.TensorProto:
        """What graphsurgeon exports, and then names."""
        if self.shelf.referring:
            copy = onnx.TensorProto()
            copy.CopyFrom(self.reference)
            return copy
        return ir.to_proto(ir.Tensor(self.original.numpy(), dtype=self.original.dtype))

    @tensor.setter
    def tensor(self, reference: onnx.TensorProto) -> None:
        self.reference = reference

    def load(self) -> Array:
        array = np.array(self.original.numpy())
        self.shelf.loaded[id(array)] = array, self
        return array


def constants(graph: Graph) -> Iterator[Constant]:
    for one in (graph, *graph.subgraphs(recursive=True)):
        yield from (tensor for tensor in one.tensors().values() if isinstance(tensor, Constant))


def key_of(proto: onnx.TensorProto) -> str:
    entries: dict[str, str] = {entry.key: entry.value for entry in proto.external_data}
    return entries.get("location", "")
