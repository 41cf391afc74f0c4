"""Runs the stages of a lowering beside each other and holds them to their bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from getac.runtime import open_session, run
from getac.verifying.agreement import NOT_FUSED, Batch, Departure, compare_outputs
from getac.verifying.recorded import Running
from getac.verifying.stages import Stage, stages_in_floats, stages_that_round
from getac.verifying.verification import Models, Verification

__all__ = ["ROUNDING", "greatest", "samples_in", "verify"]

ROUNDING = 1e-6
"""What is left where float32 numbers should cancel, relative to the greatest of them: a few roundings."""


def verify(models: Models, batches: Sequence[Batch], *, generated: bool) -> Verification:
    """Runs every stage on the same inputs under onnxruntime and holds the differences to `BOUNDS`."""
    running = None if models.rounded is None else models.rounded.running()
    # A model with quantizers means what it says: onnxruntime's own fusions of it may be wrong.
    original = outputs_of(models.original, batches, optimize=running is None)
    reference, sliced, lowered = (
        outputs_of(model, batches) for model in (models.reference, models.sliced, models.lowered)
    )
    found = Verification(
        folded=[] if running else compare_outputs(original, outputs_of(models.folded, batches)),
        sliced=compare_outputs(reference, sliced),
        rounded=[],
        added=[],
        lowered=compare_outputs(sliced, lowered),
        kernels=compare_outputs(outputs_of(models.lowered, batches, optimize=False), lowered),
        original=compare_outputs(original, lowered),
        samples=sum(samples_in(batch) for batch in batches),
        generated=generated,
        failures=(),
        departure=None,
    )
    if running is not None:
        found = with_rounding(found, running, original, lowered, batches)
    if not generated and is_zero(batches):
        names = ", ".join(batches[0])
        failure = f"calibration: the data is zero in all of {names}: it says nothing of ranges or differences"
        return replace(found, failures=(failure,), departure=Departure(next(iter(batches[0])), 0.0))
    floor = ROUNDING * greatest([*batches, *original])
    if running is None:
        return judged(found, stages_in_floats(found, models, floor), batches)
    return judged(found, stages_that_round(found, models, running, batches, floor), batches)


def with_rounding(
    found: Verification,
    running: Running,
    original: Sequence[Batch],
    lowered: Sequence[Batch],
    batches: Sequence[Batch],
) -> Verification:
    """The verification with what is asked of a model that arrived quantized, as it is written."""
    stages = (running.folded, running.reference, running.sliced, running.planned)
    folded, masked, sliced, planned = (outputs_of(model, batches, optimize=False) for model in stages)
    return replace(
        found,
        folded=compare_outputs(original, folded),
        rounded=compare_outputs(masked, sliced),
        added=compare_outputs(sliced, planned),
        lowered=compare_outputs(sliced, lowered),
    )


def greatest(batches: Sequence[Batch]) -> float:
    """The greatest finite magnitude of all floats; 0 if there are none."""
    arrays = [array for batch in batches for array in batch.values() if array.dtype.kind == "f"]
    finite = (np.abs(array[np.isfinite(array)]).max(initial=0.0) for array in arrays)
    return float(max(finite, default=0.0))


def is_zero(batches: Sequence[Batch]) -> bool:
    """Whether there are inputs, and nothing but zeros in them."""
    arrays = [array for batch in batches for array in batch.values()]
    return bool(arrays) and all(array.dtype.kind in "fiub" and not array.any() for array in arrays)


def outputs_of(model: ir.Model, batches: Sequence[Batch], optimize: bool = True) -> list[dict[str, Any]]:
    session = open_session(model, optimize=optimize)
    return [run(session, batch) for batch in batches]


def samples_in(batch: Batch) -> int:
    first = next(iter(batch.values()), np.zeros(1))
    return int(first.shape[0]) if first.ndim else 1


def judged(found: Verification, stages: Sequence[Stage], batches: Sequence[Batch]) -> Verification:
    """The verification with its failures, and the first value at which things went wrong."""
    failed = [stage for stage in stages if stage.failures()]
    if not failed:
        return found
    found = replace(found, failures=tuple(f for stage in failed for f in stage.failures()))
    departure = failed[0].departure(batches)
    if departure is not None:
        return replace(found, departure=departure)
    worst = max((one for stage in failed for one in stage.failing), key=lambda one: one.relative)
    return replace(found, departure=Departure(worst.output, worst.relative), notes=(NOT_FUSED,))
