"""Gives graph outputs the names that a person knows them by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from getac.onnx_graph.edit import unique_name

__all__ = ["name_outputs"]


def name_outputs(graph: ir.Graph, names: Sequence[str]) -> None:
    """Renames the outputs; one keeps its name where an input or a stored tensor has the new one already.

    Args:
        names: One per output, all different; so are the outputs.
    """
    for output, name in zip(graph.outputs, names, strict=True):
        other = next((value for value in values_of(graph) if value.name == name), None)
        if other is None or other.producer() is not None:
            if other is not None and other is not output:
                other.name = unique_name(graph, f"{name}.inner")
            output.name = name


def values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
