"""How near a model must stay to what it was before a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from getac.errors import BadInputError
from getac.pipeline import Effect
from getac.pipelines.executable import Runnable
from getac.verifying.agreement import BOUNDS, Agreement, Batch
from getac.verifying.differences import INFINITE_DB
from getac.verifying.stages import negligible
from getac.verifying.verify import ROUNDING, greatest

__all__ = ["Judge", "check_comparable"]

LEAST_BOUND = min(BOUNDS.sliced_relative.values())


@dataclass(frozen=True)
class Judge:
    """What counts as a departure, by what the pass says of itself.

    Args:
        effect: What the pass may do.
        reference: What the outputs are held to.
        rounds: Whether quantizers round inside. Behind one a difference of rounding can become one of a whole
            step, so that only noise can be asked of what comes out.
        floor: The difference that is none where the output should be zero.
    """

    effect: Effect
    reference: Runnable
    rounds: bool
    floor: float

    @classmethod
    def of(
        cls,
        effect: Effect,
        reference: Runnable,
        rounds: bool,
        inputs: Sequence[Batch],
        outputs: Sequence[Batch],
    ) -> Judge:
        return cls(effect, reference, rounds, ROUNDING * greatest([*inputs, *outputs]))

    @property
    def sqnr(self) -> float | None:
        """The bound in dB; None where floats are held to their rounding, and integers to what they were."""
        if self.effect is Effect.ROUNDS:
            return BOUNDS.lowered_sqnr
        return BOUNDS.kernels_sqnr if self.effect is Effect.KERNELS or self.rounds else None

    def departs(self, one: Agreement) -> bool:
        if not one.finite:
            return True
        if self.sqnr is None and one.identical is not None:
            return not one.identical
        if negligible(one, self.floor):
            return False
        if self.sqnr is not None:
            return one.sqnr_db < self.sqnr
        if one.relative <= LEAST_BOUND and one.sqnr_db > -INFINITE_DB:
            return False  # the bound of one value is found by a walk
        return one.relative > self.reference.relative_bound(one.output) or one.sqnr_db <= -INFINITE_DB

    def bound(self, one: Agreement) -> str:
        """What an output is held to, in words."""
        if self.sqnr is not None:
            return f"an SQNR of at least {self.sqnr:g} dB"
        if one.identical is not None:
            return "the same integers"
        return f"a relative difference of at most {self.reference.relative_bound(one.output):g}"

    def settled(self, one: Agreement) -> Agreement:
        """Without a difference that is none, although there is nothing to relate it to."""
        return replace(one, sqnr_db=INFINITE_DB) if negligible(one, self.floor) else one


def check_comparable(outputs: Sequence[Batch]) -> None:
    """Raises BadInputError where an output has no number to compare: NaN agrees with every NaN."""
    for name in outputs[0]:
        arrays = [np.asarray(batch[name]) for batch in outputs]
        floats = [one for one in arrays if one.dtype.kind == "f" and one.size]
        if floats and not any(np.isfinite(one).any() for one in floats):
            raise BadInputError(
                "nothing of an output can be compared: it is NaN or infinite throughout",
                where=f"output {name}",
                hint="verify with inputs for which the model computes numbers: --calibration data.npz",
            )
