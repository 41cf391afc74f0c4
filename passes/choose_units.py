"""choose-units: decides which units go.

With a sparsity S: units are ranked by the norm of all entries that they own, divided by their class's
mean, and the share S of all units goes, smallest first, never a whole class. Without one: the units that
are dead already go, so that the function stays the same.

Alignment is part of the choice: units go in blocks that keep a class at a count its kernels like.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from getac.axes.analysis import Analysis, PruningClass
from getac.axes.axis import Axis, Mask
from getac.axes.slabs import Contraction, find_contractions
from getac.errors import OptionError
from getac.kernels.saliency import squares_along, sum_by_unit
from getac.pipeline import Fact, State
from getac.placement.alignment import allowed_counts, unit_multiples
from getac.units.choice import Choice
from getac.units.dead_units import bias_folds, removable_units
from getac.units.unit_blocks import Blocks, pick

__all__ = ["ChooseUnits"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ChooseUnits:
    """Decides which units go: the least important ones, or those that are zero already.

    Args:
        sparsity: The share of all units to remove, in [0, 1); None: the units that are dead already.
        align: The multiple that channel counts are kept at; None: what each layer's kernel likes.
        integer: Whether convolutions will run on integers, which like other multiples than float ones.

    Raises:
        OptionError: An option is outside its domain.
    """

    sparsity: float | None = None
    align: int | None = None
    integer: bool = True

    name: ClassVar[str] = "choose-units"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.AXES})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.CHOSEN})
    keeps: ClassVar[frozenset[Fact]] = frozenset(Fact)

    def __post_init__(self) -> None:
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise OptionError(
                "the sparsity is the share of units to remove",
                required="a number in [0, 1), or auto",
                found=str(self.sparsity),
            )
        if self.align is not None and self.align < 1:
            raise OptionError("the alignment must be a positive multiple", found=str(self.align))

    def run(self, state: State) -> None:
        analysis = state.analysis
        assert analysis is not None
        multiples = unit_multiples(analysis, self.align, self.integer, state.costs)
        contractions: list[Contraction] = []
        if self.sparsity is None:
            contractions = find_contractions(analysis.view, analysis.inference)
            masks = dead_units(analysis, contractions, multiples)
        else:
            masks = least_important(analysis, self.sparsity, multiples)
        state.choice = Choice(
            masks=masks,
            folds=tuple(bias_folds(contractions, masks)),
            units=sum(one.size for one in analysis.classes),
            removed=sum(int((~mask).sum()) for mask in masks.values()),
            exact=self.sparsity is None,
        )


def importance(analysis: Analysis, one: PruningClass) -> Floats:
    """The norm of the float entries that each unit owns, relative to the class's mean."""
    squares = np.zeros(one.size)
    for member in one.members:
        if analysis.view.is_float(member.parameter):
            along = squares_along(
                np.asarray(analysis.view.array(member.parameter), np.float32), member.dimension
            )
            squares += sum_by_unit(along, member.owners(one.atom), one.size)
    norms = np.sqrt(squares)
    mean = norms.mean()
    return norms / mean if mean > 0 else norms


def least_important(analysis: Analysis, sparsity: float, multiples: Mapping[Axis, int]) -> dict[Axis, Mask]:
    """Removes the units of least score, in blocks; as near to the sparsity as blocks allow."""
    classes = analysis.classes
    sizes = [one.size for one in classes]
    ends = np.cumsum(sizes, dtype=np.int64)
    live = [np.arange(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    scores = np.concatenate([np.zeros(0), *(importance(analysis, one) for one in classes)])
    blocks = Blocks.of(live, scores, [multiples[one.atom] for one in classes], minimum=1)
    target = blocks.nearest(round(sparsity * sum(sizes)))
    stays = np.ones(len(scores), dtype=np.bool_)
    stays[blocks.units_in(pick(blocks, target, target))] = False
    masks = {one.atom: stays[own] for one, own in zip(classes, live, strict=True)}
    return {atom: mask for atom, mask in masks.items() if not mask.all()}


def dead_units(
    analysis: Analysis, contractions: list[Contraction], multiples: Mapping[Axis, int]
) -> dict[Axis, Mask]:
    """The units that every sum they go into can do without; as many as alignment lets go."""
    removable = removable_units(analysis, contractions)
    masks: dict[Axis, Mask] = {}
    for one in analysis.classes:
        dead = np.flatnonzero(removable[one.atom])
        count = min(c for c in allowed_counts(one, multiples[one.atom]) if c >= one.size - dead.size)
        if count < one.size:
            masks[one.atom] = np.ones(one.size, dtype=np.bool_)
            masks[one.atom][dead[: one.size - count]] = False
    return masks
