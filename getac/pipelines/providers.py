"""Which pass makes a fact true that a later pass needs: what a pipeline may leave unsaid."""

from __future__ import annotations

from getac.passes import (
    Calibrate,
    ChooseUnits,
    FoldBatchNorm,
    FoldQuantizers,
    InferAxes,
    InferShapes,
    QuantizeWeights,
    SliceUnits,
)
from getac.pipeline import Fact, Pass

__all__ = ["standard_provider"]


def standard_provider(fact: Fact, wanted_by: Pass) -> Pass | None:
    """The pass with its defaults; units are chosen only by somebody who says how many."""
    if fact is Fact.CHOSEN:
        return chooser_of(wanted_by)
    standard: dict[Fact, Pass] = {
        Fact.QUANTIZERS_FOLDED: FoldQuantizers(),
        Fact.BATCH_NORMS_FOLDED: FoldBatchNorm(),
        Fact.SHAPES: InferShapes(),
        Fact.AXES: InferAxes(),
        Fact.CALIBRATED: Calibrate(),
        Fact.WEIGHTS_QUANTIZED: QuantizeWeights(),
    }
    return standard.get(fact)


def chooser_of(wanted_by: Pass) -> ChooseUnits | None:
    if isinstance(wanted_by, SliceUnits) and wanted_by.sparsity is not None:
        return ChooseUnits(wanted_by.sparsity, wanted_by.align)
    return None
