"""remove-dead: removes nodes and stored tensors that no output needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx_ir.passes.common import RemoveUnusedNodesPass

from getac.pipeline import Fact, State

__all__ = ["RemoveDead"]


@dataclass(frozen=True)
class RemoveDead:
    """Removes what no graph output depends on; graph inputs stay, they are the model's signature."""

    name: ClassVar[str] = "remove-dead"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset(Fact) - {Fact.SHAPES, Fact.AXES, Fact.CHOSEN}

    def run(self, state: State) -> None:
        RemoveUnusedNodesPass()(state.model)
        alive = {*state.model.graph.inputs, *state.model.graph.initializers.values()}
        for node in state.model.graph:
            alive.update(node.inputs, node.outputs)  # type: ignore[arg-type]
        state.quantizers = {value: q for value, q in state.quantizers.items() if value in alive}
