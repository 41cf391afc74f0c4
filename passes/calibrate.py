"""calibrate: runs the model on calibration data and gives the activations that need one a quantizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from getac.data.measured_ranges import Progress, measured
from getac.errors import OptionError
from getac.kernels.ranges import METHODS
from getac.pipeline import Effect, Fact, Refusal, State
from getac.placement.placement import Placement, place

__all__ = ["Calibrate", "Progress"]


@dataclass(frozen=True)
class Calibrate:
    """Measures ranges: gives every activation that integer kernels read or write a quantizer.

    Ranges are those of the float model. Records that are there already (folded from the file) stay; what a
    plan gives has the plan's bits, and without data its steps.

    Args:
        method: How a range is estimated: "minmax", "percentile" or "mse".
        bits: Activation bits, 2 to 8.
        progress: Called with the number of samples done, and of all samples.

    Raises:
        OptionError: An option is outside its domain.
        CalibrationError: There is no data, or an activation is not finite on it.
    """

    method: str = "minmax"
    bits: int = 8
    progress: Progress | None = field(default=None, compare=False)

    name: ClassVar[str] = "calibrate"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.QUANTIZERS_FOLDED})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.CALIBRATED})
    keeps: ClassVar[frozenset[Fact]] = frozenset(Fact)
    effect: ClassVar[Effect] = Effect.ROUNDS

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise OptionError(
                "unknown method for activation ranges", required=" or ".join(METHODS), found=self.method
            )
        if not 2 <= self.bits <= 8:
            raise OptionError(
                "integer kernels take activations of 2 to 8 bits", required="2 to 8", found=str(self.bits)
            )

    def run(self, state: State) -> None:
        placement = place(state.model.graph, state.quantizers, state.calibrates, state.floats)
        if not placement.values and not state.floats:  # nothing without data, perhaps something with it
            placement = place(state.model.graph, state.quantizers)
        values = [v for v in placement.values if v not in state.quantizers and v not in placement.same_as]
        self.note_unused(placement, state)
        planned = {value: state.planned[str(value.name)] for value in values if value.name in state.planned}
        if state.calibration is None:
            state.quantizers.update(planned)
            values = [value for value in values if value not in planned]
        if values:
            bits = {value: planned[value].bits if value in planned else self.bits for value in values}
            state.quantizers.update(measured(state, bits, self.method, self.progress))
        for value in placement.same_as:
            state.quantizers[value] = state.quantizers[placement.source(value)]

    def note_unused(self, placement: Placement, state: State) -> None:
        """Says which activations of a plan nothing here reads or writes as integers."""
        needed = {str(value.name) for value in [*placement.values, *state.quantizers]}
        for name in sorted(state.planned.keys() - needed):
            state.refuse(self.name, Refusal(name, "the plan has a quantizer for it; nothing here needs one"))
