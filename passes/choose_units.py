"""choose-units: decides which units go.

With a sparsity S: units are ranked by the norm of all entries that they own, divided by their class's
mean, and the share S of all units goes, smallest first, never a whole class. Without one: the units that
are dead already go, so that the function stays the same.

Alignment is part of the choice: units go in blocks that keep a class at a count its kernels like.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from getac.alignment import allowed_counts, unit_multiples
from getac.axes.analysis import Analysis, PruningClass
from getac.axes.axis import Axis, Mask, kept, leaves, units
from getac.axes.slabs import Contraction, find_contractions
from getac.choice import BiasFold, Choice
from getac.errors import OptionError
from getac.kernels.saliency import squares_along, sum_by_unit
from getac.pipeline import Fact, State

__all__ = ["ChooseUnits"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ChooseUnits:
    """Fills `State.choice`.

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


@dataclass(frozen=True)
class Block:
    """Units of a class that go together, so that the count stays aligned."""

    score: float
    one: PruningClass
    units: npt.NDArray[np.int64]


def least_important(analysis: Analysis, sparsity: float, multiples: Mapping[Axis, int]) -> dict[Axis, Mask]:
    """Removes blocks of least score while that brings the share of removed units nearer to the sparsity.

    A class whose next block would overshoot is done; classes that go in smaller blocks fill up the share.
    """
    target = round(sparsity * sum(one.size for one in analysis.classes))
    candidates = [
        block
        for one in analysis.classes
        for block in blocks(one, importance(analysis, one), multiples[one.atom])
    ]
    masks: dict[Axis, Mask] = {}
    done: set[Axis] = set()
    removed = 0
    for block in sorted(candidates, key=lambda block: block.score):
        if abs(removed + block.units.size - target) >= abs(removed - target):
            done.add(block.one.atom)
        if block.one.atom in done:
            continue
        mask = masks.setdefault(block.one.atom, np.ones(block.one.size, dtype=np.bool_))
        mask[block.units] = False
        removed += block.units.size
    return masks


def blocks(one: PruningClass, scores: Floats, multiple: int) -> Iterator[Block]:
    """Cuts a class, least important units first, at its allowed counts; the last count always stays."""
    order = np.argsort(scores, kind="stable")
    counts = allowed_counts(one, multiple)
    for more, fewer in zip(reversed(counts), reversed(counts[:-1]), strict=False):
        chosen = order[one.size - more : one.size - fewer]
        yield Block(float(scores[chosen].mean()), one, chosen)


def dead_units(
    analysis: Analysis, contractions: list[Contraction], multiples: Mapping[Axis, int]
) -> dict[Axis, Mask]:
    """The units that every sum they go into can do without; as many as alignment lets go."""
    removable = {one.atom: np.zeros(one.size, dtype=np.bool_) for one in analysis.classes}
    for atom in {leaf for c in contractions for leaf in leaves(c.axis)} & removable.keys():
        removable[atom][:] = True  # a class that nothing sums over never leaves the graph
    for contraction in contractions:
        for leaf in dict.fromkeys(leaves(contraction.axis)):
            if leaf in removable:
                for owner in units(contraction.axis, leaf):
                    needed = owner[(owner >= 0) & ~contraction.removable]
                    removable[leaf][needed] = False
    masks: dict[Axis, Mask] = {}
    for one in analysis.classes:
        dead = np.flatnonzero(removable[one.atom])
        count = min(c for c in allowed_counts(one, multiples[one.atom]) if c >= one.size - dead.size)
        if count < one.size:
            masks[one.atom] = np.ones(one.size, dtype=np.bool_)
            masks[one.atom][dead[: one.size - count]] = False
    return masks


def bias_folds(contractions: list[Contraction], masks: Mapping[Axis, Mask]) -> Iterator[BiasFold]:
    """What the removed units' constants add to the sums that lose them."""
    for contraction in contractions:
        constants = np.where(kept(contraction.axis, masks), 0.0, contraction.constants)
        if constants.any():
            yield BiasFold(contraction.node, constants)
