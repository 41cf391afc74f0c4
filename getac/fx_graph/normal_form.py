"""Rewrites calls whose meaning would change with sizes that slicing may reach."""

from __future__ import annotations

import torch
from torch import fx

from getac.fx_graph.reader import CallReader

__all__ = ["name_squeezed_dimensions", "slice_for_narrow"]

aten = torch.ops.aten
SQUEEZES = {
    aten.squeeze.default: aten.squeeze.dims,
    aten.squeeze.dim: aten.squeeze.dims,
    aten.squeeze.dims: aten.squeeze.dims,
    aten.squeeze_.default: aten.squeeze_.dims,
    aten.squeeze_.dim: aten.squeeze_.dims,
    aten.squeeze_.dims: aten.squeeze_.dims,
}


def name_squeezed_dimensions(graph: fx.Graph) -> None:
    """Says which dimensions a squeeze takes away: one that slicing leaves a single unit of must stay.

    before   x (8, 1, 5, 1).squeeze()
    after    x (8, 1, 5, 1).squeeze((1, 3))
    """
    for node in graph.nodes:
        if node.op == "call_function" and node.target in SQUEEZES:
            reader = CallReader(node)
            sizes = reader.get("self").meta["val"].shape
            named = reader.arguments.get("dim", range(len(sizes)))
            named = [named] if isinstance(named, int) else named
            dims = sorted({d % max(len(sizes), 1) for d in named})
            node.target = SQUEEZES[node.target]
            node.args, node.kwargs = (reader.get("self"), [d for d in dims if sizes[d] == 1]), {}


def slice_for_narrow(graph: fx.Graph) -> None:
    """Writes narrow(x, dim, start, length) as the slice that it is: one rule follows both."""
    for node in graph.find_nodes(op="call_function", target=aten.narrow.default):
        x, dim, start, length = (CallReader(node).get(name) for name in ("self", "dim", "start", "length"))
        if isinstance(start, int) and isinstance(length, int) and start >= 0:
            node.target, node.args, node.kwargs = aten.slice.Tensor, (x, dim, start, start + length), {}
