"""What is compared with what before a result is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from getac.runtime import open_session, run
from getac.verifying.agreement import (
    BOUNDS,
    Agreement,
    Batch,
    Departure,
    compare_outputs,
    first_departure,
    relative_bound,
)
from getac.verifying.differences import INFINITE_DB

__all__ = ["Models", "Verification", "verify"]

KeepMasks = Mapping[str, Sequence[npt.NDArray[np.bool_]]]

ROUNDING = 1e-6
"""What is left where float32 numbers should cancel, relative to the greatest of them: a few roundings."""


@dataclass(frozen=True)
class Models:
    """One model at its stages.

    Args:
        original: As it was read.
        folded: With batch normalisations and quantizers folded, ready for pruning.
        reference: What slicing must be equal to: the masked model, or (where the removed units were dead)
            the one before slicing.
        sliced: Without the removed units, in floats.
        lowered: The result.
        quantized: Whether the model that was read has quantizers, which are folded into floats.
        keep: Gives, by value, which indices of each dimension of the reference the sliced model still has.
    """

    original: ir.Model
    folded: ir.Model
    reference: ir.Model
    sliced: ir.Model
    lowered: ir.Model
    quantized: bool
    keep: Callable[[], KeepMasks]


@dataclass(frozen=True)
class Verification:
    """How the stages agree with each other.

    Args:
        folded: The folded model against the one that was read.
        sliced: The sliced model against its reference.
        lowered: The result against the sliced model.
        kernels: The result as onnxruntime optimises it against the same graph without optimisation.
        original: The result against the model that was read.
        samples: How many samples were compared.
        generated: Whether they are random, for want of data.
        failures: What is outside its bound; empty if the result is verified.
        departure: The first value that departs, where something does.
    """

    folded: Sequence[Agreement]
    sliced: Sequence[Agreement]
    lowered: Sequence[Agreement]
    kernels: Sequence[Agreement]
    original: Sequence[Agreement]
    samples: int
    generated: bool
    failures: Sequence[str]
    departure: Departure | None

    @property
    def passed(self) -> bool:
        return not self.failures


def verify(models: Models, batches: Sequence[Batch], *, generated: bool) -> Verification:
    """Runs every stage on the same inputs under onnxruntime and holds the differences to `BOUNDS`."""
    # A model with quantizers means what it says: onnxruntime's own fusions of it may be wrong.
    original = outputs_of(models.original, batches, optimize=not models.quantized)
    stages = (models.folded, models.reference, models.sliced, models.lowered)
    folded, reference, sliced, lowered = (outputs_of(model, batches) for model in stages)
    plain = outputs_of(models.lowered, batches, optimize=False)
    found = Verification(
        folded=compare_outputs(original, folded),
        sliced=compare_outputs(reference, sliced),
        lowered=compare_outputs(sliced, lowered),
        kernels=compare_outputs(plain, lowered),
        original=compare_outputs(original, lowered),
        samples=sum(samples_in(batch) for batch in batches),
        generated=generated,
        failures=(),
        departure=None,
    )
    if not generated and is_zero(batches):
        names = ", ".join(batches[0])
        failure = f"calibration: the data is zero in all of {names}: it says nothing of ranges or differences"
        return replace(found, failures=(failure,), departure=Departure(next(iter(batches[0])), 0.0))
    return judged(found, models, batches[0], ROUNDING * greatest([*batches, *original]))


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


@dataclass(frozen=True)
class Stage:
    """One comparison, and what counts as a difference.

    Args:
        departs: Whether an output is not what it should be.
        failure: What to say of one that is not.
        floor: See `negligible`.
        models: The reference and the result, to look for the first value that departs.
        keep: As in `Models`, where the result has lost units.
    """

    agreements: Sequence[Agreement]
    departs: Callable[[Agreement], bool]
    failure: Callable[[Agreement], str]
    floor: float
    models: tuple[ir.Model, ir.Model] | None = None
    keep: Callable[[], KeepMasks] = dict

    def failures(self) -> list[str]:
        return [self.failure(one) for one in self.agreements if self.counts(one)]

    def counts(self, one: Agreement) -> bool:
        return self.departs(one) and not negligible(one, self.floor)

    def departure(self, batch: Batch) -> Departure | None:
        if self.models is None:
            return None
        return first_departure(*self.models, batch, self.counts, self.keep())


def negligible(one: Agreement, floor: float) -> bool:
    """Whether a difference is none, although there is nothing to relate it to.

    An output that should be zero throughout has no signal, and any noise is infinitely more: it may be up to
    `floor`, the rounding of the model's greatest input or output. Of other outputs only what is smaller than
    float32's least normal number is no difference: processors may take it for zero.
    """
    zero = one.sqnr_db <= -INFINITE_DB
    return one.finite and one.max_abs <= max(floor if zero else 0.0, float(np.finfo(np.float32).tiny))


def judged(found: Verification, models: Models, batch: Batch, floor: float) -> Verification:
    """The verification with its failures, and the first value at which things went wrong."""
    failed = [stage for stage in stages(found, models, floor) if stage.failures()]
    if not failed:
        return found
    departure = failed[0].departure(batch)
    if departure is None:
        worst = max((one for stage in failed for one in stage.agreements), key=lambda one: one.relative)
        departure = Departure(worst.output, worst.relative)
    return replace(
        found, failures=tuple(f for stage in failed for f in stage.failures()), departure=departure
    )


def stages(found: Verification, models: Models, floor: float) -> list[Stage]:
    """The comparisons that count, in order; the noise of quantizers in the model is no failure of a stage.

    A model with quantizers that lost no units must come out as it was, its rounding included: then that
    is asked, and not how far its own quantizers are from floats.
    """
    slicing = slicing_stage(found.sliced, relative_bound(models.reference), floor, models)
    kernels = noise_stage("kernels", found.kernels, BOUNDS.kernels_sqnr, floor)
    if models.quantized and models.reference is models.folded:
        pair = (models.original, models.lowered)
        bound = original_bound(found, floor)
        return [slicing, kernels, noise_stage("original", found.original, bound, floor, pair)]
    folding_bound = BOUNDS.lowered_sqnr if models.quantized else BOUNDS.folded_sqnr
    return [
        noise_stage("folded", found.folded, folding_bound, floor, (models.original, models.folded)),
        slicing,
        noise_stage("lowered", found.lowered, BOUNDS.lowered_sqnr, floor, (models.sliced, models.lowered)),
        kernels,
    ]


def original_bound(found: Verification, floor: float) -> float:
    """The bound in dB for a model with quantizers, lower where the result rounds more than the model does.

    What the result rounds by itself is the noise of lowering beyond that of folding the model's quantizers.
    """
    added = [
        max(noise(one) - noise(other), 0.0)
        for one, other in zip(found.lowered, found.folded, strict=True)
        if not negligible(one, floor)
    ]
    allowed = 10 ** (-BOUNDS.original_sqnr / 10) + 2 * max(added, default=0.0)
    return max(BOUNDS.lowered_sqnr, float(-10 * np.log10(allowed)))


def noise(one: Agreement) -> float:
    """Noise power relative to the signal."""
    return float(10 ** (-one.sqnr_db / 10))


def slicing_stage(agreements: Sequence[Agreement], bound: float, floor: float, models: Models) -> Stage:
    def failure(one: Agreement) -> str:
        return (
            f"sliced: output {one.output} differs from the masked model by {one.relative:.2g} relative,"
            f" bound {bound:g}"
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
            f"{name}: output {one.output} has an SQNR of {one.sqnr_db:.1f} dB, bound {bound:.3g} dB"
            if one.finite
            else not_comparable(name, one)
        )

    def departs(one: Agreement) -> bool:
        return not one.finite or one.sqnr_db < bound

    return Stage(agreements, departs, failure, floor, models)


def not_comparable(name: str, one: Agreement) -> str:
    if np.isinf(one.relative):
        return f"{name}: output {one.output} has another shape than it should have"
    return f"{name}: output {one.output} is NaN or infinite where it should not be, or the other way round"
