"""replay-units: the units that a plan keeps are kept here, on a model of the same structure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from getac.axes.analysis import Analysis, Member, PruningClass
from getac.axes.axis import Axis, Mask
from getac.axes.slabs import find_contractions
from getac.errors import BadInputError
from getac.pipeline import Fact, State
from getac.plans.saved_plan import PlannedClass, SavedPlan, read_plan
from getac.plans.structure import structure_of
from getac.plans.structure_differences import first_differences
from getac.units.choice import Choice
from getac.units.dead_units import bias_folds, removable_units

__all__ = ["ReplayUnits"]

Places = tuple[tuple[str, int], ...]
"""Parameters and their dimensions, sorted."""


@dataclass(frozen=True)
class ReplayUnits:
    """Decides which units go: those that a plan of a model of the same structure removes.

    Units that the plan removed because they were zero, and that the model can do without as well, leave its
    function as it is; others are removed as if they were masked.

    Args:
        plan: The file (docs/plan.md).

    Raises:
        BadInputError: The plan cannot be read; or the model has another structure: the differences are told.
    """

    plan: str

    name: ClassVar[str] = "replay-units"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.AXES})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.CHOSEN})
    keeps: ClassVar[frozenset[Fact]] = frozenset(Fact)

    @cached_property
    def saved(self) -> SavedPlan:
        return read_plan(self.plan)

    def run(self, state: State) -> None:
        analysis, model = state.analysis, state.model
        assert analysis is not None and state.shapes is not None
        here = structure_of(model, state.shapes)
        if here.hash != self.saved.hash:
            raise unlike(self.saved, first_differences(self.saved.structure, here))
        masks = dict(replayed_masks(self.saved, analysis))
        contractions = find_contractions(analysis.view, analysis.inference) if self.saved.exact else []
        removable = removable_units(analysis, contractions)
        exact = self.saved.exact and all(removable[atom][~mask].all() for atom, mask in masks.items())
        state.choice = Choice(
            masks=masks,
            folds=tuple(bias_folds(contractions, masks)) if exact else (),
            units=sum(one.size for one in analysis.classes),
            removed=sum(int((~mask).sum()) for mask in masks.values()),
            exact=exact,
        )


def unlike(plan: SavedPlan, found: str) -> BadInputError:
    return BadInputError(
        "the plan is one of a model with another structure",
        where=str(plan),
        required="the same operators, attributes, edges, shapes and names of parameters",
        found=found,
        hint="getac lower --plan makes a plan of this model; a pipeline of your own begins with `analysis`",
    )


def replayed_masks(plan: SavedPlan, analysis: Analysis) -> Iterator[tuple[Axis, Mask]]:
    """Class atom -> which units stay, for the classes that lose some."""
    found = counted([places(one.members) for one in analysis.classes])
    here = dict(zip(found, analysis.classes, strict=True))
    keys = counted([tuple(sorted(one.members)) for one in plan.classes])
    for key, planned in zip(keys, plan.classes, strict=True):
        if len(planned.kept) < planned.units:
            one = here.get(key)
            if one is None:
                raise unlike(plan, why_missing(planned, analysis))
            check_units(plan, planned, one)
            yield one.atom, planned.mask


def counted(places: Sequence[Places]) -> list[tuple[Places, int]]:
    """Each with the number of equal ones before it: classes of one tensor's groups have the same members."""
    return [(one, places[:position].count(one)) for position, one in enumerate(places)]


def places(members: tuple[Member, ...]) -> Places:
    return tuple(sorted((member.name, member.dimension) for member in members))


def check_units(plan: SavedPlan, planned: PlannedClass, here: PruningClass) -> None:
    if planned.units != here.size:
        found = f"{planned.name}: {planned.units} units in the plan, {here.size} {here.role} here"
        raise unlike(plan, found)


def why_missing(planned: PlannedClass, analysis: Analysis) -> str:
    """Why a class of the plan is none here: it is frozen, or has other members."""
    parameter, dimension = next(iter(planned.members), ("no parameter", 0))
    place = f"{parameter}[{dimension}]"
    said = f"{planned.name} ({planned.units} units, {place}) loses {planned.units - len(planned.kept)} units"
    for frozen in analysis.frozen:
        if any((one.name, one.dimension) == (parameter, dimension) for one in frozen.members):
            return f"{said} in the plan, and is frozen here: {frozen.why}"
    if any(places(one.members) == tuple(sorted(planned.members)) for one in analysis.classes):
        return f"{said} in the plan, where it is listed once more than here"
    for one in analysis.classes:
        if any((m.name, m.dimension) == (parameter, dimension) for m in one.members):
            return f"{said} in the plan, and has other members here: {listed(one)}"
    return f"{said} in the plan, and is missing here"


def listed(one: PruningClass) -> str:
    return ", ".join(f"{m.name}[{m.dimension}]" for m in one.members[:4])
