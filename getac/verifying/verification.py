"""What is compared before a result is written, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from getac.verifying.agreement import Agreement, Departure, KeepMasks
from getac.verifying.recorded import Rounded

__all__ = ["Models", "Verification"]


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
        notes: What a reader of the failures should know.
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
    notes: Sequence[str] = ()

    @property
    def passed(self) -> bool:
        return not self.failures
