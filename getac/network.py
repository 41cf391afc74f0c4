"""The folded dependency graph that people query and draw: operators, classes, quantizers.

    operator -> operator     a value flows
    class -- operator        its units pass through the operator's parameters
    quantizer -> operator    a value that the operator reads is rounded

Channels are never nodes, so the graph does not grow with width.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict

import networkx as nx

from getac.axes.analysis import Analysis
from getac.view import GraphView

__all__ = ["network_of", "to_dot"]

Readers = Mapping[Hashable, Sequence[str]]


def network_of(analysis: Analysis) -> nx.DiGraph:
    """The network as a directed graph; nodes have a `kind` ("operator", "class", "quantizer") and a label.

    Operators and classes have what they, or one unit, cost: parameters, bytes, macs, bops.
    """
    graph = nx.DiGraph()
    readers = readers_of(analysis.view)
    add_operators(graph, analysis)
    add_classes(graph, analysis, readers)
    add_quantizers(graph, analysis, readers)
    return graph


def readers_of(view: GraphView) -> Readers:
    """Value -> the operators that read it."""
    readers: dict[Hashable, list[str]] = {}
    for node in view.nodes:
        for value in node.inputs:
            if value is not None:
                readers.setdefault(value, []).append(node.name)
    return readers


def add_operators(graph: nx.DiGraph, analysis: Analysis) -> None:
    view = analysis.view
    producers = {value: node.name for node in view.nodes for value in node.outputs}
    costs = {layer.name: asdict(layer.cost) for layer in analysis.costs.layers}
    for node in view.nodes:
        rule = type(node.rule).__name__ if node.rule else None
        graph.add_node(node.name, kind="operator", label=node.operator, rule=rule, **costs.get(node.name, {}))
        for value in node.inputs:
            if value in producers:
                graph.add_edge(producers[value], node.name, kind="value", label=view.name_of(value))


def add_classes(graph: nx.DiGraph, analysis: Analysis, readers: Readers) -> None:
    for one in analysis.classes:
        cost = asdict(analysis.costs.classes[one.name])
        graph.add_node(one.name, kind="class", label=f"{one.size} {one.role}", units=one.size, **cost)
        for member in one.members:
            for reader in readers.get(member.parameter, []):
                graph.add_edge(one.name, reader, kind="member", label=f"{member.name}[{member.dimension}]")


def add_quantizers(graph: nx.DiGraph, analysis: Analysis, readers: Readers) -> None:
    for value, quantizer in analysis.quantizers.items():
        name = f"quantizer of {analysis.view.name_of(value)}"
        graph.add_node(name, kind="quantizer", label=f"{quantizer.bits} bits", bits=quantizer.bits)
        for reader in readers.get(value, []):
            graph.add_edge(name, reader, kind="rounds")


SHAPES = {"operator": "box", "class": "ellipse", "quantizer": "diamond"}


def to_dot(graph: nx.DiGraph) -> str:
    """The graph in the DOT language of Graphviz."""
    lines = ["digraph network {"]
    for name, data in graph.nodes(data=True):
        label = f"{name}\\n{data['label']}"
        lines.append(f"  {quoted(name)} [label={quoted(label)} shape={SHAPES[data['kind']]}];")
    for source, target, data in graph.edges(data=True):
        style = "solid" if data["kind"] == "value" else "dashed"
        lines.append(f"  {quoted(source)} -> {quoted(target)} [style={style}];")
    return "\n".join([*lines, "}"]) + "\n"


def quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'
