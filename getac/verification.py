"""What is compared with what before a result is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from getac.agreement import BOUNDS, Agreement, Batch, Departure, compare_outputs, first_departure
from getac.runtime import open_session, run

__all__ = ["Models", "Verification", "verify"]

KeepMasks = Mapping[str, Sequence[npt.NDArray[np.bool_]]]


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
    return judged(found, models, batches[0])


def outputs_of(model: ir.Model, batches: Sequence[Batch], optimize: bool = True) -> list[dict[str, Any]]:
    session = open_session(model, optimize=optimize)
    return [run(session, batch) for batch in batches]


def samples_in(batch: Batch) -> int:
    first = next(iter(batch.values()), np.zeros(1))
    return int(first.shape[0]) if first.ndim else 1


def judged(found: Verification, models: Models, batch: Batch) -> Verification:
    """The verification with its failures, and the first value at which things went wrong."""
    folding_bound = BOUNDS.lowered_sqnr if models.quantized else BOUNDS.folded_sqnr
    is_misfolded, is_noise, is_wrong = (
        below(bound) for bound in (folding_bound, BOUNDS.lowered_sqnr, BOUNDS.kernels_sqnr)
    )
    folded = [noise_failure("folded", one, folding_bound) for one in found.folded if is_misfolded(one)]
    sliced = [slicing_failure(one) for one in found.sliced if not_sliced(one)]
    lowered = [noise_failure("lowered", one, BOUNDS.lowered_sqnr) for one in found.lowered if is_noise(one)]
    kernels = [noise_failure("kernels", one, BOUNDS.kernels_sqnr) for one in found.kernels if is_wrong(one)]
    departure = None
    if folded:
        departure = first_departure(models.original, models.folded, batch, is_misfolded)
    elif sliced:
        departure = first_departure(models.reference, models.sliced, batch, not_sliced, models.keep())
    elif lowered:
        departure = first_departure(models.sliced, models.lowered, batch, is_noise)
    failures = (*folded, *sliced, *lowered, *kernels)
    if failures and departure is None:
        outputs = [*found.folded, *found.sliced, *found.lowered, *found.kernels]
        worst = max(outputs, key=lambda one: one.relative)
        departure = Departure(worst.output, worst.relative)
    return replace(found, failures=failures, departure=departure)


def not_sliced(one: Agreement) -> bool:
    return not one.finite or one.relative > BOUNDS.sliced_relative


def below(bound: float) -> Callable[[Agreement], bool]:
    """Whether an output is too noisy, for a bound in dB."""
    return lambda one: not one.finite or one.sqnr_db < bound


def slicing_failure(one: Agreement) -> str:
    return (
        f"sliced: output {one.output} differs from the masked model by {one.relative:.2g} relative,"
        f" bound {BOUNDS.sliced_relative:g}"
    )


def noise_failure(stage: str, one: Agreement, bound: float) -> str:
    return f"{stage}: output {one.output} has an SQNR of {one.sqnr_db:.1f} dB, bound {bound:g} dB"
