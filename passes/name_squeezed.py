"""name-squeezed: a Squeeze says which dimensions it removes.

    before   y = Squeeze(x)             x (N, 64, 1, 1)
    after    y = Squeeze(x, [2, 3])

Without axes it removes every dimension of size 1: also one that slicing cuts down to its last unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from getac.onnx_graph.edit import add_initializer, set_input
from getac.onnx_graph.shapes import open_shapes
from getac.pipeline import Fact, State

__all__ = ["NameSqueezed"]


@dataclass(frozen=True)
class NameSqueezed:
    """Writes down the axes of every Squeeze whose input's shape is known."""

    name: ClassVar[str] = "name-squeezed"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.SHAPES})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.SHAPES})
    keeps: ClassVar[frozenset[Fact]] = frozenset(Fact) - {Fact.AXES, Fact.CHOSEN}

    def run(self, state: State) -> None:
        graph = state.model.graph
        assert state.shapes is not None
        named = False
        for node in graph:
            if node.op_type != "Squeeze" or node.domain not in ("", "ai.onnx"):
                continue
            if len(node.inputs) > 1 and node.inputs[1] is not None:
                continue
            x = node.inputs[0]
            dims = state.shapes.dims.get(x) if x is not None else None
            if dims is not None:
                ones = [i for i, dim in enumerate(dims) if dim.is_static and dim.size == 1]
                axes = np.array(ones, dtype=np.int64)
                set_input(node, 1, add_initializer(state.model.graph, f"{node.name}.axes", axes))
                named = True
        if named:
            state.shapes = open_shapes(state.model, state.bindings)
