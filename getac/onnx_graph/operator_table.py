"""What the operator tables are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from getac.onnx_graph.node_reader import NodeReader
from getac.rules.base import Rule

__all__ = ["Maker", "table"]

Maker = Callable[[NodeReader], Rule]
"""Reads a node and returns its rule; raises NotConstant where its arguments cannot be normalised."""


def table(makers: Mapping[Maker, str]) -> dict[str, Maker]:
    """Maker -> the names of its operators, turned around."""
    return {name: maker for maker, names in makers.items() for name in names.split()}
