"""Which stored tensors a node's weights are made of, in either graph and in the files before and after."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Protocol

import onnx_ir as ir

__all__ = ["Edges", "Sources", "bytes_by_node", "bytes_stored", "constant_sources", "tensors_of"]

Sources = Mapping[Hashable, Sequence[Hashable]]
"""A value that is computed from stored tensors alone -> these tensors, each once."""


class Edges(Protocol):
    """What a node reads and makes: a node of the view, or of onnx_ir."""

    @property
    def inputs(self) -> Sequence[Hashable | None]: ...

    @property
    def outputs(self) -> Sequence[Hashable]: ...


def constant_sources(nodes: Iterable[Edges], stored: Iterable[Hashable]) -> Sources:
    """The values that are computed from stored tensors alone, the stored tensors among them.

    Args:
        nodes: In execution order.
    """
    sources: dict[Hashable, tuple[Hashable, ...]] = {value: (value,) for value in stored}
    for node in nodes:
        read = [sources.get(value) for value in node.inputs if value is not None]
        if None not in read:
            found = tuple(dict.fromkeys(tensor for one in read for tensor in one or ()))
            sources.update(dict.fromkeys(node.outputs, found))
    return sources


def tensors_of(node: Edges, sources: Sources) -> list[Hashable]:
    """The stored tensors that a node reads, directly or computed; one that only computes weights has none."""
    read = [value for value in node.inputs if value is not None]
    if all(value in sources for value in read):
        return []
    return list(dict.fromkeys(tensor for value in read for tensor in sources.get(value, ())))


def bytes_by_node(graph: ir.Graph) -> dict[str, int]:
    """Node -> bytes in the file of what its weight and bias are made of: integers, scales, zero points.

    A weight that several layers share counts in each; vectors, such as zero points, for the first one.
    """
    sources = constant_sources(graph, graph.initializers.values())
    counted: set[Hashable] = set()
    found: dict[str, int] = {}
    for node in graph:
        if node.name:
            tensors = tensors_of(node, sources)
            if any(is_matrix(tensor) for tensor in tensors):  # a layer
                own = [tensor for tensor in tensors if is_matrix(tensor) or tensor not in counted]
                counted.update(tensors)
                tensors = own
            found[node.name] = nbytes(tensors)
    return found


def is_matrix(tensor: Hashable) -> bool:
    return isinstance(tensor, ir.Value) and tensor.shape is not None and len(tensor.shape) > 1


def bytes_stored(graph: ir.Graph) -> int:
    """Bytes in the file of all stored tensors."""
    return nbytes(graph.initializers.values())


def nbytes(tensors: Iterable[Hashable]) -> int:
    stored = (value.const_value for value in tensors if isinstance(value, ir.Value))
    return sum(tensor.nbytes for tensor in stored if tensor is not None)
