"""The comparisons of a verification, each with its bound and what is said where it is exceeded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx_ir as ir

from getac.verifying.agreement import (
    BOUNDS,
    Agreement,
    Batch,
    Departure,
    KeepMasks,
    first_departure,
    relative_bound,
)
from getac.verifying.differences import INFINITE_DB
from getac.verifying.pieces import Piece, compare_pieces
from getac.verifying.recorded import Running, computes_on_integers, expanded
from getac.verifying.verification import Models, Verification

__all__ = ["Stage", "negligible", "stages_in_floats", "stages_that_round"]

# What rounds by ranges that it measures on its input.
MEASURING = frozenset(
    ("DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulNBits")
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One comparison, and what counts as a difference.

    Args:
        departs: Whether an output is not what it should be.
        failure: What to say of one that is not.
        floor: See `negligible`.
        models: The reference and the result, to look for the first value that departs.
        keep: As in `Models`, where the result has lost units.
        as_written: The comparison that looks for it instead, with its own bound, where this one compares a
            graph with itself.
        pieces: Compares models that round alike piece by piece; asked where outputs depart, which they may.
    """

    agreements: Sequence[Agreement]
    departs: Callable[[Agreement], bool]
    failure: Callable[[Agreement], str]
    floor: float
    models: tuple[ir.Model, ir.Model] | None = None
    keep: Callable[[], KeepMasks] = dict
    as_written: Stage | None = None
    pieces: Callable[[], Sequence[Agreement]] | None = None

    @cached_property
    def failing(self) -> Sequence[Agreement]:
        """The outputs, or the values between quantizers, that depart."""
        outputs = [one for one in self.agreements if self.counts(one)]
        return [one for one in self.pieces() if self.counts(one)] if outputs and self.pieces else outputs

    def failures(self) -> list[str]:
        return [self.failure(one) for one in self.failing]

    def counts(self, one: Agreement) -> bool:
        return self.departs(one) and not negligible(one, self.floor)

    def departure(self, batches: Sequence[Batch]) -> Departure | None:
        """The first value inside that departs, the models run as they are written."""
        if self.pieces is not None:
            return Departure(self.failing[0].output, self.failing[0].relative)
        if self.as_written is not None:
            return self.as_written.departure(batches)
        if self.models is None:
            return None
        return first_departure(*self.models, batches, self.counts, self.keep())


def negligible(one: Agreement, floor: float) -> bool:
    """Whether a difference is none, although there is nothing to relate it to.

    An output that should be zero throughout has no signal, and any noise is infinitely more: it may be up to
    `floor`, the rounding of the model's greatest input or output. Of other outputs only what is smaller than
    float32's least normal number is no difference: processors may take it for zero.
    """
    zero = one.sqnr_db <= -INFINITE_DB
    return one.finite and one.max_abs <= max(floor if zero else 0.0, float(np.finfo(np.float32).tiny))


def stages_in_floats(found: Verification, models: Models, floor: float) -> list[Stage]:
    """The comparisons that count, in order."""
    pair = (models.original, models.folded)
    lowered = noise_stage(
        "lowered", found.lowered, BOUNDS.lowered_sqnr, floor, (models.sliced, models.lowered)
    )
    return [
        noise_stage("folded", found.folded, BOUNDS.folded_sqnr, floor, pair),
        slicing_stage(found.sliced, floor, models),
        lowered,
        kernels_stage(found, floor, lowered),
    ]


def stages_that_round(
    found: Verification, models: Models, running: Running, batches: Sequence[Batch], floor: float
) -> list[Stage]:
    """The comparisons that count for a model with quantizers, which must come out with their rounding."""
    assert models.rounded is not None
    records = models.rounded.sliced.records
    masked = slicing_stage(found.rounded, floor, models)
    masked = replace(
        masked,
        pieces=lambda: compare_pieces(running.reference, running.sliced, records, batches, models.keep()),
    )
    lowered = lowered_stage(found, floor, (running.sliced, models.lowered))
    return [
        *recognized_stages(found, models, running, batches, floor),
        slicing_stage(found.sliced, floor, models),
        masked,
        lowered,
        kernels_stage(found, floor, lowered),
    ]


def recognized_stages(
    found: Verification, models: Models, running: Running, batches: Sequence[Batch], floor: float
) -> list[Stage]:
    """The records against the model that was read.

    Integer operators show no value to cut at, and a tie travels through all of them. So records are held to
    these operators written in floats, from one quantizer to the next, and to the operators themselves as
    kernels are.
    """
    assert models.rounded is not None
    records = models.rounded.folded.records

    def stage(bound: float, reference: Callable[[], ir.Model]) -> Stage:
        outputs = noise_stage("recognized", found.folded, bound, floor)
        return replace(
            outputs, pieces=lambda: compare_pieces(reference(), running.folded, records, batches, {})
        )

    bound = recognized_bound(models.original)
    if not computes_on_integers(models.original):
        return [stage(bound, lambda: models.original)]
    return [
        stage(bound, lambda: expanded(models.original)),
        stage(min(bound, BOUNDS.kernels_sqnr), lambda: models.original),
    ]


def recognized_bound(original: ir.Model) -> float:
    """The bound in dB for records: that of kernels where the model itself rounds what no record says.

    Ranges that are measured on every input are no records; floats of 16 bits round in other places.
    """
    measured = any(node.op_type in MEASURING for node in original.graph.all_nodes())
    coarse = relative_bound(original) > BOUNDS.sliced_relative[ir.DataType.FLOAT]
    return BOUNDS.kernels_sqnr if measured or coarse else BOUNDS.recognized_sqnr


def quantized_bound(found: Verification, floor: float) -> float:
    """The bound in dB for a model with quantizers, lower where lowering adds some of its own."""
    added = [noise(one) for one in found.added if not negligible(one, floor)]
    allowed = 10 ** (-BOUNDS.quantized_sqnr / 10) + 2 * max(added, default=0.0)
    return max(BOUNDS.lowered_sqnr, float(-10 * np.log10(allowed)))


def lowered_stage(found: Verification, floor: float, models: tuple[ir.Model, ir.Model]) -> Stage:
    """The result against the model with quantizers; says so where those that lowering adds are the noise."""
    stage = noise_stage("lowered", found.lowered, quantized_bound(found, floor), floor, models)
    added = {one.output: one for one in found.added if one.finite and not negligible(one, floor)}
    hint = "" if found.generated else "; without --calibration there may be none"

    def failure(one: Agreement) -> str:
        own = added.get(one.output)
        if own is None or own.sqnr_db >= BOUNDS.quantized_sqnr:
            return stage.failure(one)
        return (
            f"{stage.failure(one)}, of which the quantizers that lowering adds to the model's own make"
            f" {own.sqnr_db:.1f} dB{hint}"
        )

    return replace(stage, failure=failure)


def kernels_stage(found: Verification, floor: float, lowered: Stage) -> Stage:
    """What onnxruntime's optimisation makes of the result."""
    return replace(noise_stage("kernels", found.kernels, BOUNDS.kernels_sqnr, floor), as_written=lowered)


def noise(one: Agreement) -> float:
    """Noise power relative to the signal."""
    return float(10 ** (-one.sqnr_db / 10))


def slicing_stage(agreements: Sequence[Agreement], floor: float, models: Models) -> Stage:
    bound = relative_bound(models.reference)

    def failure(one: Agreement) -> str:
        return (
            f"sliced: {subject(one)} differs from the masked model by {one.relative:.2g} relative,"
            f" bound {bound:g}{behind(one)}"
            if one.finite
            else not_comparable("sliced", one)
        )

    def departs(one: Agreement) -> bool:
        return not one.finite or one.relative > bound

    return Stage(agreements, departs, failure, floor, (models.reference, models.sliced), models.keep)


def noise_stage(
    name: str,
    agreements: Sequence[Agreement],
    bound: float,
    floor: float,
    models: tuple[ir.Model, ir.Model] | None = None,
) -> Stage:
    """A comparison with a bound in dB."""

    def failure(one: Agreement) -> str:
        return (
            f"{name}: {subject(one)} has an SQNR of {one.sqnr_db:.1f} dB, bound {bound:.3g} dB{behind(one)}"
            if one.finite
            else not_comparable(name, one)
        )

    def departs(one: Agreement) -> bool:
        return not one.finite or one.sqnr_db < bound

    return Stage(agreements, departs, failure, floor, models)


def not_comparable(name: str, one: Agreement) -> str:
    if np.isinf(one.relative):
        return f"{name}: {subject(one)} has another shape than it should have"
    return f"{name}: {subject(one)} is NaN or infinite where it should not be, or the other way round"


def subject(one: Agreement) -> str:
    return f"{'value' if isinstance(one, Piece) else 'output'} {one.output}"


def behind(one: Agreement) -> str:
    """Which quantizers are at fault."""
    names = one.behind if isinstance(one, Piece) else ()
    return f", behind the quantizer{'s' * (len(names) > 1)} of {', '.join(names)}" if names else ""
