"""replay-quantizers: the lattices of a plan, on another model of the same structure.

A weight gets the plan's integers with steps of its own; an activation the plan's steps, or, where there is
calibration data, steps that are measured anew. What the model has quantizers for stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from getac.data.measured_ranges import Progress, measured
from getac.embeddings import is_embedding
from getac.errors import BadInputError
from getac.onnx_graph.edit import array_of, is_stored
from getac.pipeline import Effect, Fact, Refusal, State
from getac.plans.saved_plan import PlannedQuantizer, SavedPlan, read_plan
from getac.quantizer import Quantizer
from getac.weight_lattices import greatest, like

__all__ = ["ReplayQuantizers"]


@dataclass(frozen=True)
class ReplayQuantizers:
    """Gives weights and activations the lattices that a plan of a model of the same structure says.

    Activations that the plan calibrated get theirs from `calibrate`, once it is known which ones need it.

    Args:
        plan: The file (docs/plan.md).
        method: How ranges are estimated where there is data: "minmax", "percentile" or "mse".
        progress: Called with the number of samples done, and of all samples.

    Raises:
        BadInputError: The plan cannot be read, or its steps do not fit a tensor of the model.
    """

    plan: str
    method: str = "minmax"
    progress: Progress | None = field(default=None, compare=False)

    name: ClassVar[str] = "replay-quantizers"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.QUANTIZERS_FOLDED})
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset(Fact)
    effect: ClassVar[Effect] = Effect.ROUNDS

    @cached_property
    def saved(self) -> SavedPlan:
        return read_plan(self.plan)

    def run(self, state: State) -> None:
        planned = self.saved.quantizers
        self.replay_floats(state)
        known = {value: planned[name] for name, value in self.named(state).items() if name in planned}
        self.note_others(known, state)
        free = {value: one for value, one in known.items() if value not in state.quantizers}
        for value, one in free.items():
            if is_stored(value):
                state.quantizers[value] = self.of_weight(value, one.quantizer)
        own = {value: one.quantizer for value, one in free.items() if one.own and not is_stored(value)}
        if own and state.calibration is not None:
            bits = {value: one.bits for value, one in own.items()}
            own = measured(state, bits, self.method, self.progress)
        state.quantizers.update(own)
        # Names that are not here yet may be those of values that later passes make.
        state.planned = {n: one.quantizer for n, one in planned.items() if not (one.stored or one.own)}

    def replay_floats(self, state: State) -> None:
        nodes = {str(node.name): node for node in state.model.graph}
        state.floats = {nodes[name]: why for name, why in self.saved.floats.items() if name in nodes}
        for name in self.saved.floats.keys() - nodes.keys():
            state.refuse(self.name, Refusal(name, "the plan runs it in floats; no node here is called so"))

    def named(self, state: State) -> dict[str, ir.Value]:
        """The values of the model by name; what the plan says of others is listed."""
        graph = state.model.graph
        values = [*graph.inputs, *graph.initializers.values(), *(v for n in graph for v in n.outputs)]
        here = {str(value.name): value for value in values}
        for name, one in self.saved.quantizers.items():
            if name in here:
                self.check_kind(here[name], one)
            elif one.stored or one.own:
                reason = f"the plan has {one.quantizer.bits} bits for it; nothing here is called so"
                state.refuse(self.name, Refusal(name, reason))
        return here

    def check_kind(self, value: ir.Value, planned: PlannedQuantizer) -> None:
        kinds = {True: "a stored tensor", False: "an activation"}
        if is_stored(value) is not planned.stored:
            raise self.unfit(value, f"{kinds[is_stored(value)]}, as it is here", kinds[planned.stored])

    def unfit(self, value: ir.Value, required: str, found: str) -> BadInputError:
        what = "weight" if is_stored(value) else "activation"
        return BadInputError(
            f"the quantizer of the plan does not fit the {what}",
            where=f"{value.name} in {self.saved}",
            required=required,
            found=found,
        )

    def of_weight(self, weight: ir.Value, planned: Quantizer) -> Quantizer:
        """The plan's integers with steps by what the weight holds."""
        array = np.asarray(array_of(weight), np.float32)
        if planned.axis is not None and planned.axis >= array.ndim:
            axes = f"steps along one of {array.ndim} dimensions"
            raise self.unfit(weight, axes, f"steps along dimension {planned.axis}")
        if planned.block is not None and planned.step.ndim != array.ndim:
            steps = f"steps in {array.ndim} dimensions, as it has blocks"
            raise self.unfit(weight, steps, f"steps in {planned.step.ndim}")
        if any(is_embedding(user) and index == 0 for user, index in weight.uses()):
            return greatest(planned, array)  # as rows are quantized that are looked up
        return like(planned, array)

    def note_others(self, known: Iterable[ir.Value], state: State) -> None:
        """Says where the model's own quantizers stay although the plan has other bits."""
        for value in known:
            own, planned = state.quantizers.get(value), self.saved.quantizers[str(value.name)].quantizer
            if own is not None and own.bits != planned.bits:
                reason = f"the model's own quantizer of {own.bits} bits stays; the plan has {planned.bits}"
                state.refuse(self.name, Refusal(str(value.name), reason))
