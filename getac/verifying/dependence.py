"""What a value depends on: inputs, or stored tensors alone.

What is made of stored tensors alone is a weight, however it is stored: quantized, cast, scaled, transposed.
Two models may lay it out differently under one name, so that its numbers say nothing; if they are wrong, what
reads them shows it.
"""

from __future__ import annotations

import onnx_ir as ir

from getac.onnx_graph.branches import is_random

__all__ = ["computed_values", "sources", "varying_values"]


def computed_values(graph: ir.Graph) -> list[ir.Value]:
    """The values of a main graph that are worth comparing, as they run: all but weights and constants.

    An output counts whatever it depends on: its layout is part of the signature.
    """
    varying = varying_values(graph)
    values = (value for node in graph for value in node.outputs)
    return [value for value in values if value.name and (value in varying or value.is_graph_output())]


def varying_values(graph: ir.Graph) -> set[ir.Value]:
    """The values of a main graph that depend on its inputs, or on chance."""
    outer = {inner: node for node in graph for inner in with_inner(node)}
    todo = [value for value in graph.inputs if not value.is_initializer()]
    todo += [value for inner, node in outer.items() if is_random(inner) for value in node.outputs]
    found = set(todo)
    while todo:
        readers = [outer[node] for node, _ in todo.pop().uses() if node in outer]
        new = {value for node in readers for value in node.outputs} - found
        found |= new
        todo += new
    return found


def sources(graph: ir.Graph, output: str | None) -> tuple[set[ir.Node], set[ir.Value]]:
    """The nodes and values that go into a value of this name, itself included; None: into any output."""
    known = {value.name: value for node in graph for value in node.outputs}
    pending = [known[output]] if output in known else list(graph.outputs)
    nodes: set[ir.Node] = set()
    values = set(pending)
    while pending:
        node = pending.pop().producer()
        if node is None or node in nodes:
            continue
        inside = with_inner(node)
        nodes.update(inside)
        read = {value for one in inside for value in one.inputs if value is not None}
        pending += read - values
        values |= read
    return nodes, values


def with_inner(node: ir.Node) -> list[ir.Node]:
    """A node and those of the graphs that it runs."""
    return [node, *(one for graph in subgraphs_of(node) for one in graph.all_nodes())]


def subgraphs_of(node: ir.Node) -> list[ir.Graph]:
    attributes = node.attributes.values()
    return [one.as_graph() for one in attributes if one.type == ir.AttributeType.GRAPH and not one.is_ref()]
