"""`getac.apply`: a plan that was made of one model, carried out on another of the same structure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from getac.data.calibration import Source
from getac.keywords import ApplyKeywords, spelled_out
from getac.lowering import ModelSource, PathLike, lower_with
from getac.options import Options
from getac.plans.saved_plan import read_plan
from getac.report import Report

if TYPE_CHECKING:
    from typing_extensions import Unpack  # of typing since Python 3.11

__all__ = ["apply"]


@spelled_out(ApplyKeywords)
def apply(
    plan: PathLike,
    model: ModelSource,
    output: PathLike | None = None,
    *,
    calibration: Source | None = None,
    report: PathLike | None = None,
    **options: Unpack[ApplyKeywords],
) -> Report:
    """Removes the units that a plan removes, with the bits that it has, and verifies and writes the result.

    Weights get steps of their own, or keep the model's quantizers. Activations get the plan's steps, which
    have to suit them (`getac.plans.fitting`); with calibration data they are measured anew.

    Args:
        plan: What `getac.lower(..., plan=FILE)` wrote, of a model with the same operators, attributes, edges,
            shapes and names of parameters.
        model: Another checkpoint: a path, a model in memory, or a module that `getac.prepare` returned.
        output: Where to write; None writes no model.
        calibration: As for `getac.lower`; needed where the plan has no steps for an activation.
        report: Where to write the report as JSON; also written if the result does not verify.
        ranges: How activation ranges are estimated where there is data: "minmax", "percentile" or "mse".
        target: Who loads the result: "portable" or "ort".
        bench: Whether to measure latency.
        force: Whether to write a result that does not verify.
        seed: For generated inputs.
        on_step: Called with the name of every step before it starts.
        on_sample: Called with the number of samples calibrated so far, and of all.

    Raises:
        BadInputError: The plan cannot be read; the model has another structure, and the differences are told;
            or the model, the data or an output path cannot be used.
        VerificationError: The result is not what it should be; no model was written.
    """
    saved = read_plan(plan)
    how = Options(keep=saved.keep, replayed=saved, **options)
    return lower_with(model, output, calibration=calibration, report=report, plan=None, how=how)
