"""remove-identities: what hands a value on as it is goes; exporters leave one for every dropout.

before   y = Identity(x);  z = MatMul(y, W)
after    z = MatMul(x, W)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from getac.pipeline import Fact, State

__all__ = ["RemoveIdentities"]


@dataclass(frozen=True)
class RemoveIdentities:
    """Removes Identity nodes, but for one from an input, or from another output, to an output.

    Args:
        apart: Whether an output stays another value than one that nodes read: behind pairs, it may have to
            (`getac.onnx_graph.rearranging.moved_up_to`).
    """

    apart: bool = False

    name: ClassVar[str] = "remove-identities"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset({Fact.LOWERED, Fact.SLICED, Fact.BATCH_NORMS_FOLDED})

    def run(self, state: State) -> None:
        for node in list(state.model.graph.all_nodes()):
            if node.op_type == "Identity" and node.domain == "" and not is_needed(node, self.apart):
                remove(node)


def is_needed(node: ir.Node, apart: bool) -> bool:
    """Whether its result is an output that would otherwise have the name, or the graph, of another value."""
    x, y = node.inputs[0], node.outputs[0]
    if x is None or not y.is_graph_output():
        return x is None
    producer, read = x.producer(), apart and len(x.uses()) > 1
    return read or producer is None or producer.graph is not node.graph or x.is_graph_output()


def remove(node: ir.Node) -> None:
    x, y, graph = node.inputs[0], node.outputs[0], node.graph
    assert x is not None and graph is not None
    name, is_output = y.name, y.is_graph_output()
    x.type = x.type or y.type
    if is_output and y.shape is not None:  # what an interface declares is right
        x.shape = y.shape
    ir.convenience.replace_all_uses_with(y, x, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    if is_output:
        x.name = name
