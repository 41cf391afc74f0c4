"""Embeddings: stored tables of which a model looks rows up."""

from __future__ import annotations

import onnx_ir as ir

from getac.onnx_graph.edit import is_stored

__all__ = ["is_embedding", "table_of"]


def is_embedding(node: ir.Node) -> bool:
    """Whether a node picks rows of a stored matrix, which ones being computed when the graph runs."""
    if node.op_type != "Gather" or node.domain not in ("", "ai.onnx"):
        return False
    table, rows = node.inputs
    stored = is_stored(table) and table is not None and table.shape is not None and len(table.shape) == 2
    return stored and not is_stored(rows) and node.attributes.get_int("axis", 0) in (0, -2)


def table_of(node: ir.Node) -> ir.Value:
    """The table of an embedding."""
    table = node.inputs[0]
    assert table is not None
    return table
