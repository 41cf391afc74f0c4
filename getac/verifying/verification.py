"""What is compared with what before a result is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from getac.runtime import open_session, run
from getac.verifying.agreement import (
    BOUNDS,
    Agreement,
    Batch,
    Departure,
    KeepMasks,
    compare_outputs,
    first_departure,
    relative_bound,
)
from getac.verifying.differences import INFINITE_DB
from getac.verifying.pieces import Piece, compare_pieces
from getac.verifying.recorded import Rounded, Running

__all__ = ["Models", "Verification", "verify"]

# What rounds by ranges that it measures on its input.
MEASURING = frozenset(
    ("DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulNBits")
)  # fmt: skip

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
        rounded: The stages with the quantizers that the model arrived with; None if it has none.
        keep: Gives, by value, which indices of each dimension of the reference the sliced model still has.
    """

    original: ir.Model
    folded: ir.Model
    reference: ir.Model
    sliced: ir.Model
    lowered: ir.Model
    rounded: Rounded | None
    keep: Callable[[], KeepMasks]


@dataclass(frozen=True)
class Verification:
    """How the stages agree with each other.

    Args:
        folded: The folded model, its quantizers running, against the one that was read.
        sliced: The sliced model against its reference, both in floats.
        rounded: The same with the quantizers running that the model arrived with; empty if it has none.
        added: What the quantizers that lowering adds to these make of the sliced model; empty likewise.
        lowered: The result against the sliced model, with the quantizers running that the model arrived with.
        kernels: The result as onnxruntime optimises it against the same graph without optimisation.
        original: The result against the model that was read.
        samples: How many samples were compared.
        generated: Whether they are random, for want of data.
        failures: What is outside its bound; empty if the result is verified.
        departure: The first value that departs, where something does.
    """

    folded: Sequence[Agreement]
    sliced: Sequence[Agreement]
    rounded: Sequence[Agreement]
    added: Sequence[Agreement]
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


@dataclass(frozen=True)
class Stage:
    """One comparison, and what counts as a difference.

    Args:
        departs: Whether an output is not what it should be.
        failure: What to say of one that is not.
        floor: See `negligible`.
        models: The reference and the result, to look for the first value that departs.
        keep: As in `Models`, where the result has lost units.
        pieces: Compares models that round alike piece by piece; asked where outputs depart, which they may.
    """

    agreements: Sequence[Agreement]
    departs: Callable[[Agreement], bool]
    failure: Callable[[Agreement], str]
    floor: float
    models: tuple[ir.Model, ir.Model] | None = None
    keep: Callable[[], KeepMasks] = dict
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
        if self.pieces is not None:
            return Departure(self.failing[0].output, self.failing[0].relative)
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


def judged(found: Verification, stages: Sequence[Stage], batches: Sequence[Batch]) -> Verification:
    """The verification with its failures, and the first value at which things went wrong."""
    failed = [stage for stage in stages if stage.failures()]
    if not failed:
        return found
    departure = failed[0].departure(batches)
    if departure is None:
        worst = max((one for stage in failed for one in stage.agreements), key=lambda one: one.relative)
        departure = Departure(worst.output, worst.relative)
    return replace(
        found, failures=tuple(f for stage in failed for f in stage.failures()), departure=departure
    )


def stages_in_floats(found: Verification, models: Models, floor: float) -> list[Stage]:
    """The comparisons that count, in order."""
    pair = (models.original, models.folded)
    return [
        noise_stage("folded", found.folded, BOUNDS.folded_sqnr, floor, pair),
        slicing_stage(found.sliced, floor, models),
        noise_stage("lowered", found.lowered, BOUNDS.lowered_sqnr, floor, (models.sliced, models.lowered)),
        noise_stage("kernels", found.kernels, BOUNDS.kernels_sqnr, floor),
    ]


def stages_that_round(
    found: Verification, models: Models, running: Running, batches: Sequence[Batch], floor: float
) -> list[Stage]:
    """The comparisons that count for a model with quantizers, which must come out with their rounding."""
    assert models.rounded is not None
    own = models.rounded.folded.records, models.rounded.sliced.records
    bound = recognized_bound(models.original)
    recognized = noise_stage("recognized", found.folded, bound, floor)
    recognized = replace(
        recognized, pieces=lambda: compare_pieces(models.original, running.folded, own[0], batches, {})
    )
    masked = slicing_stage(found.rounded, floor, models)
    masked = replace(
        masked,
        pieces=lambda: compare_pieces(running.reference, running.sliced, own[1], batches, models.keep()),
    )
    pair = (running.sliced, models.lowered)
    return [
        recognized,
        slicing_stage(found.sliced, floor, models),
        masked,
        noise_stage("lowered", found.lowered, quantized_bound(found, floor), floor, pair),
        noise_stage("kernels", found.kernels, BOUNDS.kernels_sqnr, floor),
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
