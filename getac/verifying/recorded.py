"""A model that arrived quantized, at its stages: floats, with records of how they are rounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from getac.onnx_graph.qoperators import is_qoperator
from getac.passes import ExpandQOperators, WriteQuantizers
from getac.pipeline import State
from getac.quantizer import Quantizer

__all__ = ["Recorded", "Rounded", "Running", "computes_on_integers", "expanded"]


@dataclass(frozen=True)
class Recorded:
    """A model in floats and the quantizers that were folded out of it, or shall be lowered into it.

    Args:
        records: Value, by its name -> how it is rounded; also of values that the model does not have.
    """

    model: ir.Model
    records: Mapping[str, Quantizer]

    @classmethod
    def of(cls, model: ir.Model, state: State) -> Recorded:
        """The records of a state for a copy of its model."""
        return cls(model, {str(value.name): record for value, record in state.quantizers.items()})

    def running(self) -> ir.Model:
        """The model that rounds where the records say so; it shares the stored tensors."""
        copy = self.model.clone()
        values = [*copy.graph.inputs, *copy.graph.initializers.values()]
        values.extend(output for node in copy.graph for output in node.outputs)
        found = {value: self.records[str(value.name)] for value in values if value.name in self.records}
        WriteQuantizers().run(State(copy, quantizers=found))
        return copy


@dataclass(frozen=True)
class Running:
    """The stages of a model that arrived quantized, as models that round; see `Rounded`."""

    folded: ir.Model
    reference: ir.Model
    sliced: ir.Model
    planned: ir.Model


@dataclass(frozen=True)
class Rounded:
    """The stages of a model that arrived quantized, each with records.

    Args:
        folded: Ready for pruning, with the model's own quantizers.
        reference: What slicing must be equal to, with the same.
        sliced: Without the removed units, with the model's own quantizers.
        planned: The same with those that lowering adds.
    """

    folded: Recorded
    reference: Recorded
    sliced: Recorded
    planned: Recorded

    def running(self) -> Running:
        """The models that round; stages that are the same are one model."""
        folded, sliced = self.folded.running(), self.sliced.running()
        reference = folded if self.reference.model is self.folded.model else self.reference.running()
        planned = sliced if self.planned is self.sliced else self.planned.running()
        return Running(folded, reference, sliced, planned)


def computes_on_integers(model: ir.Model) -> bool:
    """Whether there are operators that round their own result: the value before has no name."""
    return any(is_qoperator(node) and node.op_type != "MatMulNBits" for node in model.graph)


def expanded(model: ir.Model) -> ir.Model:
    """A copy with the values that such operators round, under the names that records know them by."""
    state = State(model.clone())
    ExpandQOperators().run(state)
    return state.model
