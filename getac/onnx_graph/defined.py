"""Is every value that a graph reads or returns there by then?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

__all__ = ["undefined_value"]


def undefined_value(graph: ir.Graph) -> str | None:
    """The first value that is read before anything computes it, and where; None if there is none.

    Values of the graphs around a subgraph are there for it. A cycle is such a value, too.
    """
    return next(undefined(graph, set()), None)


def undefined(graph: ir.Graph, known: set[ir.Value]) -> Iterator[str]:
    inside = {*graph.inputs, *graph.initializers.values()}
    known |= inside
    for node in graph:
        yield from (f"{name}, read by {label(node)}" for name in missing(node.inputs, known))
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                yield from undefined(attribute.as_graph(), known)
        inside.update(node.outputs)
        known.update(node.outputs)
    yield from (f"{name}, an output of {graph.name or 'the graph'}" for name in missing(graph.outputs, known))
    known -= inside


def missing(values: Iterable[ir.Value | None], known: set[ir.Value]) -> list[str]:
    return [str(value.name) for value in values if value is not None and value not in known]


def label(node: ir.Node) -> str:
    return f"{node.op_type} node {node.name}" if node.name else f"a {node.op_type} node"
