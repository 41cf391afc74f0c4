"""Runs a model on calibration data and gives activations lattices that cover what was seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from getac.errors import CalibrationError
from getac.kernels.ranges import range_estimator
from getac.pipeline import Refusal, State
from getac.quantizer import Quantizer
from getac.runtime import open_session, run

__all__ = ["Progress", "measured"]

Progress = Callable[[int, int], None]


def measured(
    state: State, bits: Mapping[ir.Value, int], method: str, progress: Progress | None = None
) -> dict[ir.Value, Quantizer]:
    """One pass over the data; only one batch of activations is in memory at a time.

    Args:
        bits: The activations, and how many bits each gets.
        method: How a range is estimated: "minmax", "percentile" or "mse".
        progress: Called with the number of samples done, and of all samples.

    Raises:
        CalibrationError: There is no data, or an activation is not finite on it.
    """
    if state.calibration is None:
        raise CalibrationError(
            "activations need calibration data to run on integers",
            where=", ".join(str(value.name) for value in list(bits)[:3]) if state.planned else None,
            required="arrays for every model input",
            hint="give --calibration, or leave the pass out for weight-only lowering",
        )
    estimators = {str(value.name): range_estimator(method, own) for value, own in bits.items()}
    session = open_session(state.model, outputs=estimators)
    done = 0
    for batch in state.calibration:
        arrays = {**run(session, batch), **batch}
        for name, estimator in estimators.items():
            estimator.update(arrays[name])
        done += state.calibration.samples_in(batch)
        if progress:
            progress(done, state.calibration.samples)
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
            state.refuse(state.running, Refusal(name, reason, "give data that reaches it"))
    return {value: Quantizer.ranged(*estimators[str(value.name)].range(), own) for value, own in bits.items()}
