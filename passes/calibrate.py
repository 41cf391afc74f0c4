"""calibrate: runs the model on calibration data and gives the activations that need one a quantizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir

from getac.errors import CalibrationError, OptionError
from getac.kernels.ranges import METHODS, range_estimator
from getac.pipeline import Effect, Fact, Refusal, State
from getac.placement import place
from getac.quantizer import Quantizer
from getac.runtime import open_session, run

__all__ = ["Calibrate", "Progress"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Calibrate:
    """Fills `State.quantizers` for every activation that integer kernels read or write.

    Ranges are those of the float model. Records that are there already (folded from the file) stay.

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
        calibrated = state.calibration is not None
        placement = place(state.model.graph, state.quantizers, calibrated, state.floats)
        if not placement.values:  # nothing without data, perhaps something with it
            placement = place(state.model.graph, state.quantizers, floats=state.floats)
        values = [v for v in placement.values if v not in state.quantizers and v not in placement.same_as]
        if values:
            state.quantizers.update(self._measure(state, values))
        for value in placement.same_as:
            state.quantizers[value] = state.quantizers[placement.source(value)]

    def _measure(self, state: State, values: list[ir.Value]) -> dict[ir.Value, Quantizer]:
        """One pass over the data; only one batch of activations is in memory at a time."""
        if state.calibration is None:
            raise CalibrationError(
                "activations need calibration data to run on integers",
                required="arrays for every model input",
                hint="give --calibration, or leave the pass out for weight-only lowering",
            )
        estimators = {str(value.name): range_estimator(self.method, self.bits) for value in values}
        session = open_session(state.model, outputs=estimators)
        done = 0
        for batch in state.calibration:
            arrays = {**run(session, batch), **batch}
            for name, estimator in estimators.items():
                estimator.update(arrays[name])
            done += state.calibration.samples_in(batch)
            if self.progress:
                self.progress(done, state.calibration.samples)
        for name, estimator in estimators.items():
            if estimator.skipped:
                raise CalibrationError(
                    "an activation is not finite on the calibration data",
                    where=name,
                    found=f"{estimator.skipped} values that are NaN or infinite",
                    hint="check the model on this data; layers behind such a value cannot run on integers",
                )
            if estimator.range() == (0.0, 0.0):
                reason = "it is zero on all of the calibration data, so that its range is unknown"
                state.refuse(self.name, Refusal(name, reason, "give data that reaches it"))
        return {value: Quantizer.ranged(*estimators[str(value.name)].range(), self.bits) for value in values}
