"""Do the activations of a model fit the lattices that a plan gives them?

The steps of a plan are those of another checkpoint. A lattice that is too small clips, one that is too coarse
rounds everything to zero; behind enough layers neither shows in an output's noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from getac.placement.clipping import CLIPPING, clipping_bounds
from getac.quantizer import Quantizer
from getac.runtime import open_session, run
from getac.verifying.agreement import BOUNDS, Batch, Departure
from getac.verifying.differences import Difference, difference
from getac.verifying.verification import Verification

__all__ = ["Fit", "fits_of", "with_misfits"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Fit:
    """How a lattice of the plan suits an activation.

    Args:
        value: The activation.
        lattice: Where the plan's lattice begins and ends.
        seen: The least and the greatest number that the float model computes.
        sqnr_db: Of the activation rounded to the plan's lattice.
        best_db: Of the activation rounded to the lattice of as many bits that spans what was seen.
    """

    value: str
    lattice: tuple[float, float]
    seen: tuple[float, float]
    sqnr_db: float
    best_db: float

    @property
    def fails(self) -> bool:
        """Whether the rounding is mostly noise, and would not be with steps of the model's own."""
        return self.sqnr_db < min(BOUNDS.replayed_sqnr, self.best_db - BOUNDS.replayed_loss)

    def __str__(self) -> str:
        (low, high), (least, greatest) = self.lattice, self.seen
        return (
            f"plan: {self.value} goes from {least:.3g} to {greatest:.3g}; the plan's lattice, from {low:.3g}"
            f" to {high:.3g}, leaves an SQNR of {self.sqnr_db:.1f} dB, bound {BOUNDS.replayed_sqnr:g} dB"
        )


def fits_of(model: ir.Model, lattices: Mapping[str, Quantizer], batches: Sequence[Batch]) -> Iterator[Fit]:
    """How each activation of a float model fits its lattice."""
    computed = {value.name for node in model.graph for value in node.outputs}
    names = [name for name in lattices if name in computed or name in batches[0]]
    if not names:
        return
    session = open_session(model, outputs=[name for name in names if name in computed], optimize=False)
    runs = [{**batch, **run(session, batch)} for batch in batches]
    values = {value.name: value for node in model.graph for value in [*node.inputs, *node.outputs] if value}
    for name in names:
        low, high = clipped_behind(values[name]) if name in values else (-np.inf, np.inf)
        arrays = [np.clip(np.asarray(one[name], np.float32), low, high) for one in runs]
        yield fit_of(name, lattices[name], arrays)


def clipped_behind(value: ir.Value) -> tuple[float, float]:
    """The bounds that a value has where it ends: a part of a Concat may share the lattice behind its Relu."""
    low, high = -np.inf, np.inf
    while len(value.uses()) == 1 and not value.is_graph_output():
        ((node, _),) = value.uses()
        if node.op_type in CLIPPING:
            least, greatest = clipping_bounds(node)
            low, high = float(np.fmax(low, least)), float(np.fmin(high, greatest))  # NaN: not known
        elif node.op_type != "Concat":
            break
        value = node.outputs[0]
    return low, high


def fit_of(name: str, lattice: Quantizer, arrays: Sequence[Floats]) -> Fit:
    least = min(float(array.min(initial=0.0)) for array in arrays)
    greatest = max(float(array.max(initial=0.0)) for array in arrays)
    best = Quantizer.ranged(least, greatest, lattice.bits)
    step = lattice.step
    return Fit(
        name,
        (float(lattice.low * step.max()), float(lattice.high * step.max())),
        (least, greatest),
        rounding(lattice, arrays).sqnr_db,
        rounding(best, arrays).sqnr_db,
    )


def rounding(lattice: Quantizer, arrays: Sequence[Floats]) -> Difference:
    return sum((difference(array, lattice.quantize(array)) for array in arrays), Difference())


def with_misfits(found: Verification, fits: Sequence[Fit]) -> Verification:
    """The verification with the lattices of the plan that do not suit the model."""
    misfits = [one for one in fits if one.fails]
    if not misfits:
        return found
    departure = found.departure or Departure(misfits[0].value, 10 ** (-misfits[0].sqnr_db / 20))
    return replace(found, failures=(*found.failures, *map(str, misfits)), departure=departure)
