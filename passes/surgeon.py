"""surgeon: a user's function of an onnx-graphsurgeon Graph, as a pass.

def swap_relus(graph):
    for node in graph.nodes:
        if node.op == "Relu":
            node.op, node.attrs = "LeakyRelu", {"alpha": 0.1}

Pipeline([SurgeonPass(swap_relus)]), or on the command line: -p my_surgery.py:swap_relus
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir

from getac.errors import PassError
from getac.onnx_graph.surgery import Surgery
from getac.pipeline import Effect, Fact, Refusal, State

__all__ = ["SurgeonPass"]


@dataclass(frozen=True)
class SurgeonPass:
    """Hands the model to a function as a graphsurgeon Graph, and takes back what it edits or returns.

    Records of quantizers stay with the values of their names; those of values that are gone are listed.

    Args:
        function: Takes an `onnx_graphsurgeon.Graph`; edits it, or returns another.
        effect: What it may do to what the model computes.

    Raises:
        BadInputError: onnx-graphsurgeon is not installed, or would lose something that the model has.
        PassError: The function leaves something that cannot be written; what it raises itself goes through.
    """

    function: Callable[[Any], Any]
    effect: Effect = Effect.NONE

    name: ClassVar[str] = "surgeon"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset({Fact.QUANTIZERS_FOLDED})

    def run(self, state: State) -> None:
        before = state.model
        surgery = Surgery.of(before)
        returned = self.function(surgery.graph)
        if returned is not None and not isinstance(returned, type(surgery.graph)):
            raise PassError(
                f"the function {name_of(self.function)} returned something else than a graph",
                required="an onnx_graphsurgeon.Graph, or nothing",
                found=type(returned).__name__,
            )
        state.program = surgery.close(surgery.graph if returned is None else returned)
        if state.program is not before:
            self.keep_records(state)

    def keep_records(self, state: State) -> None:
        values = named_values(state.model)
        records = state.quantizers
        state.quantizers = {values[v.name]: one for v, one in records.items() if v.name in values}
        for value in records:
            if value.name not in values:
                state.refuse(self.name, Refusal(str(value.name), "it is gone, and its quantizer with it"))


def named_values(model: ir.Model) -> dict[str | None, ir.Value]:
    outputs = [value for node in model.graph for value in node.outputs]
    return {
        value.name: value for value in [*model.graph.inputs, *model.graph.initializers.values(), *outputs]
    }


def name_of(function: Callable[[Any], Any]) -> str:
    return getattr(function, "__name__", repr(function))
