"""A model between two passes as a model that runs: the records of quantizers written back into the graph."""

from __future__ import annotations

import onnx_ir as ir

from getac.passes import WriteQuantizers
from getac.pipeline import State
from getac.units.masking import masked_copy

__all__ = ["executable", "masked_executable"]


def executable(state: State) -> ir.Model:
    """A copy of the model that rounds where the records say so; it shares the stored tensors."""
    return with_records(state, state.model.clone())


def masked_executable(state: State) -> ir.Model:
    """The same with the entries of the chosen units zero: what slicing must be equal to."""
    analysis, choice = state.analysis, state.choice
    if analysis is None or choice is None or choice.exact:
        return executable(state)
    return with_records(state, masked_copy(state.model, analysis, choice))


def with_records(state: State, copy: ir.Model) -> ir.Model:
    names = {value.name: value for value in [*copy.graph.inputs, *copy.graph.initializers.values()]}
    names.update({value.name: value for node in copy.graph for value in node.outputs})
    records = {names[value.name]: record for value, record in state.quantizers.items() if value.name in names}
    WriteQuantizers().run(State(copy, quantizers=records))
    return copy
