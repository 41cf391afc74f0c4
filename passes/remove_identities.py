"""remove-identities: what hands a value on as it is goes; exporters leave one for every dropout.

before   y = Identity(x);  z = MatMul(y, W)
after    z = MatMul(x, W)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx_ir.passes.common import IdentityEliminationPass

from getac.pipeline import Fact, State

__all__ = ["RemoveIdentities"]


@dataclass(frozen=True)
class RemoveIdentities:
    """Removes Identity nodes, but for one between an input and an output of the graph."""

    name: ClassVar[str] = "remove-identities"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset()

    def run(self, state: State) -> None:
        for node in state.model.graph.all_nodes():
            if node.op_type == "Identity" and node.inputs[0] is not None:
                node.outputs[0].shape = None  # merging it with a wrong one would raise
        IdentityEliminationPass()(state.model)
