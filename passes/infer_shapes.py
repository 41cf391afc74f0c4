"""infer-shapes: computes the shape of every value by probing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from getac.onnx_graph.shapes import open_shapes
from getac.pipeline import Fact, State

__all__ = ["InferShapes"]


@dataclass(frozen=True)
class InferShapes:
    """Infers the shapes of all values; the graph stays as it is."""

    name: ClassVar[str] = "infer-shapes"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.SHAPES})
    keeps: ClassVar[frozenset[Fact]] = frozenset(Fact)

    def run(self, state: State) -> None:
        state.shapes = open_shapes(state.model, state.bindings)
