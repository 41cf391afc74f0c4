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
            x, y = (node.inputs[0], node.outputs[0]) if node.op_type == "Identity" else (None, None)
            if x is None or y is None:
                continue
            declared = y.is_graph_output() and y.shape is not None
            inner = x.producer() is not None and not x.is_graph_output()
            (x if declared and inner else y).shape = None  # merging it with a wrong one would raise
        IdentityEliminationPass()(state.model)
