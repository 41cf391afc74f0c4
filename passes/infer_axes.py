"""infer-axes: finds the pruning classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from getac.axes.analysis import analyze_view
from getac.onnx_graph.view import OnnxView
from getac.pipeline import Fact, Refusal, State

__all__ = ["InferAxes"]


@dataclass(frozen=True)
class InferAxes:
    """Fills `State.analysis`; operators without a rule are refusals."""

    name: ClassVar[str] = "infer-axes"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.QUANTIZERS_FOLDED, Fact.SHAPES})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.AXES})
    keeps: ClassVar[frozenset[Fact]] = frozenset(Fact)

    def run(self, state: State) -> None:
        assert state.shapes is not None
        state.analysis = analyze_view(OnnxView(state.model, state.shapes))
        for node in state.analysis.opaque:
            state.refuse(
                self.name,
                Refusal(node.name, f"{node.operator}: {node.reason}", "what it touches is kept whole"),
            )
