"""The folded dependency graph that people query and draw: operators, classes, quantizers.

    operator -> operator     a value flows
    class -- operator        its units pass through the operator's parameters
    quantizer -> operator    a value that the operator reads is rounded

Channels are never nodes, so the graph does not grow with width.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import networkx as nx

from getac.axes.analysis import Analysis
from getac.quantizer import Quantizer

__all__ = ["network_of", "to_dot"]


def network_of(analysis: Analysis, quantizers: Mapping[Any, Quantizer] | None = None) -> nx.DiGraph:
    """The network as a directed graph; nodes have a `kind` ("operator", "class", "quantizer") and a label."""
    view = analysis.view
    graph = nx.DiGraph()
    producers = {value: node.name for node in view.nodes for value in node.outputs}
    for node in view.nodes:
        rule = type(node.rule).__name__ if node.rule else None
        graph.add_node(node.name, kind="operator", label=node.operator, rule=rule)
        for value in node.inputs:
            if value in producers:
                graph.add_edge(producers[value], node.name, kind="value", label=view.name_of(value))
    add_classes(graph, analysis)
    for value, quantizer in (quantizers or {}).items():
        name = f"quantizer of {view.name_of(value)}"
        graph.add_node(name, kind="quantizer", label=f"{quantizer.bits} bits", bits=quantizer.bits)
        for node in view.nodes:
            if value in node.inputs:
                graph.add_edge(name, node.name, kind="rounds")
    return graph


def add_classes(graph: nx.DiGraph, analysis: Analysis) -> None:
    readers: dict[Hashable, list[str]] = {}
    for node in analysis.view.nodes:
        for value in node.inputs:
            if value in analysis.parameters:
                readers.setdefault(value, []).append(node.name)
    for one in analysis.classes:
        graph.add_node(one.name, kind="class", label=f"{one.size} {one.role}", units=one.size)
        for member in one.members:
            for reader in readers.get(member.parameter, []):
                graph.add_edge(one.name, reader, kind="member", label=f"{member.name}[{member.dimension}]")


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
