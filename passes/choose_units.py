"""choose-units: decides which units go.

With a sparsity S: units are ranked by the norm of all entries that they own, divided by their class's
mean, and the share S of all units goes, smallest first, never a whole class. Without one: the units that
are dead already go, so that the function stays the same.

Alignment is part of the choice: units go in blocks that keep a class at a count its kernels like. So are the
blocks of a quantizer: units that share steps go together, or stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from getac.axes.analysis import Analysis, PruningClass
from getac.axes.axis import Axis, Mask
from getac.axes.slabs import Contraction, find_contractions
from getac.kernels.saliency import squares_along, sum_by_unit
from getac.pipeline import Fact, Refusal, State
from getac.placement.alignment import allowed_counts, unit_multiples
from getac.units.bundles import Bundling, bundles_of
from getac.units.choice import Choice, check_options
from getac.units.dead_units import bias_folds, removable_units
from getac.units.unit_blocks import Blocks, pick, whole_bundles

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
        check_options(self.sparsity, self.align)

    def run(self, state: State) -> None:
        analysis = state.analysis
        assert analysis is not None
        multiples = unit_multiples(analysis, self.align, self.integer, state.costs)
        bundles = bundles_of(analysis)
        contractions: list[Contraction] = []
        if self.sparsity is None:
            contractions = find_contractions(analysis.view, analysis.inference)
            removable = removable_units(analysis, contractions)
            masks = dead_units(analysis, removable, bundles, multiples)
        else:
            removable = {one.atom: np.ones(one.size, dtype=np.bool_) for one in analysis.classes}
            masks = least_important(analysis, self.sparsity, bundles, multiples)
        for refusal in held_back(analysis, bundles, removable):
            state.refuse(self.name, refusal)
        state.choice = Choice(
            masks=masks,
            folds=tuple(bias_folds(contractions, masks)),
            units=sum(one.size for one in analysis.classes),
            removed=sum(int((~mask).sum()) for mask in masks.values()),
            exact=self.sparsity is None,
        )


def held_back(
    analysis: Analysis, bundles: Mapping[Axis, Bundling], removable: Mapping[Axis, Mask]
) -> Iterator[Refusal]:
    """The units that could go but for the blocks that they lie in."""
    for one in analysis.classes:
        held = bundles[one.atom].held(removable[one.atom]) if one.atom in bundles else 0
        if held:
            reason = f"{held} of its {one.size} {one.role} {bundles[one.atom].reason}"
            yield Refusal(one.name, reason, "they stay")


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


def least_important(
    analysis: Analysis, sparsity: float, bundles: Mapping[Axis, Bundling], multiples: Mapping[Axis, int]
) -> dict[Axis, Mask]:
    """Removes the units of least score, in blocks; as near to the sparsity as blocks allow."""
    classes = analysis.classes
    sizes = [one.size for one in classes]
    ends = np.cumsum(sizes, dtype=np.int64)
    live = [np.arange(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    scores = np.concatenate([np.zeros(0), *(importance(analysis, one) for one in classes)])
    together = [bundles[one.atom].of if one.atom in bundles else None for one in classes]
    blocks = Blocks.of(live, scores, [multiples[one.atom] for one in classes], 1, together)
    target = blocks.nearest(round(sparsity * sum(sizes)))
    stays = np.ones(len(scores), dtype=np.bool_)
    stays[blocks.units_in(pick(blocks, target, target))] = False
    masks = {one.atom: stays[own] for one, own in zip(classes, live, strict=True)}
    return {atom: mask for atom, mask in masks.items() if not mask.all()}


def dead_units(
    analysis: Analysis,
    removable: Mapping[Axis, Mask],
    bundles: Mapping[Axis, Bundling],
    multiples: Mapping[Axis, int],
) -> dict[Axis, Mask]:
    """The units that every sum they go into can do without; as many as alignment and blocks let go."""
    masks: dict[Axis, Mask] = {}
    for one in analysis.classes:
        dead, multiple = removable[one.atom], multiples[one.atom]
        if one.atom in bundles:
            left = bundles[one.atom].among(dead)
            going, steps = whole_bundles(left, np.zeros(one.size), multiple, minimum=1)
            gone = going[: steps.sum()]
        else:
            gone = np.flatnonzero(dead)
            count = min(c for c in allowed_counts(one, multiple) if c >= one.size - gone.size)
            gone = gone[: one.size - count]
        if gone.size:
            masks[one.atom] = np.ones(one.size, dtype=np.bool_)
            masks[one.atom][gone] = False
    return masks
