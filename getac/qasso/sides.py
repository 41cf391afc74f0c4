"""Which stored entries make a unit's activation zero: the producing side of each class.

Zeroing these alone must be as good as removing the unit. Where it is not, because the activation is then a
constant other than zero (a sigmoid, a number that is added, a bias that is not trained), the columns that
read the unit belong to its group as well: they are zeroed with it, and no constant goes into the next bias.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from getac.axes.analysis import Analysis, Member, PruningClass
from getac.axes.axis import Axis, leaves
from getac.axes.infer import add_value, visit
from getac.axes.inference import Inference
from getac.axes.slabs import Walk
from getac.fx_graph.view import FxView
from getac.rules.base import UNKNOWN, ZERO, Slab

__all__ = ["Sides", "sides_of"]

Place = tuple[Hashable, int]
"""A dimension of a stored tensor."""

BUFFER = "its activation does not vanish with its parameters: numbers that are not trained add to it"
UNTRAINED = "none of its parameters is trained: they are frozen, or in no group of the optimizer"


@dataclass(frozen=True)
class Sides:
    """What belongs to the units of each class.

    Args:
        members: Name of a class -> the dimensions whose entries are zeroed with a unit.
        excluded: Name of a class whose units cannot be zeroed by training -> the reason.
    """

    members: Mapping[str, Sequence[Member]]
    excluded: Mapping[str, str]


def sides_of(analysis: Analysis, trained_by: Collection[Tensor] | None = None) -> Sides:
    """The producing side of each class; both sides where that one does not do, or does not exist.

    Args:
        trained_by: The parameters that an optimizer trains; None: all that require gradients.
    """
    view = analysis.view
    assert isinstance(view, FxView)
    produced = producing_places(view)
    known = {m.parameter for one in analysis.classes for m in one.members}
    changing = {value for value in known if is_trained(view, value, trained_by)}
    trained = {one.name: [m for m in one.members if m.parameter in changing] for one in analysis.classes}
    chosen = {
        name: [m for m in members if (m.parameter, m.dimension) in produced] or members
        for name, members in trained.items()
    }
    while True:
        kept = surviving(analysis, chosen)
        failing = [one.name for one in analysis.classes if one.atom in kept]
        widened = {name: trained[name] for name in failing if len(chosen[name]) < len(trained[name])}
        if not widened:
            break
        chosen |= widened
    excluded = dict.fromkeys(failing, BUFFER) | {name: UNTRAINED for name in chosen if not chosen[name]}
    return Sides({name: members for name, members in chosen.items() if name not in excluded}, excluded)


def is_trained(view: FxView, value: Hashable, trained_by: Collection[Tensor] | None = None) -> bool:
    tensor = view.tensor(value)
    if not isinstance(tensor, nn.Parameter) or (trained_by is not None and tensor not in trained_by):
        return False
    return tensor.requires_grad and tensor.is_floating_point()


def producing_places(view: FxView) -> set[Place]:
    """The dimensions of stored tensors that go on in what a node computes, instead of being summed away.

    Every node is looked at by itself, with activations whose axes nobody else shares: in the whole network
    the inputs and the outputs of a residual layer are one class. What is computed from stored tensors
    alone is a weight like them, so a transposed weight is followed to the product that reads it.
    """
    stored = set(view.parameters)
    local = Inference(parameters=frozenset(stored))
    for value in view.parameters:
        add_value(view, local, value, None)
    reached: list[Axis] = []
    for node in view.nodes:
        read = [value for value in node.inputs if value is not None]
        if stored.isdisjoint(read):
            continue
        for value in set(read) - stored:
            add_value(view, local, value, None)
        visit(view, node, local, {})
        if stored.issuperset(read):
            stored.update(node.outputs)
        else:
            reached += [axis for value in node.outputs for axis in local.axes.get(value, ())]
    outputs = {leaf for axis in reached for leaf in leaves(axis)}
    return {
        (value, dimension)
        for value in view.parameters
        for dimension, axis in enumerate(local.axes.get(value, ()))
        if not outputs.isdisjoint(leaves(axis))
    }


@dataclass
class ZeroedNumbers:
    """What stored tensors hold along a dimension when units are zero: see `getac.axes.slabs.Numbers`."""

    view: FxView
    slabs: Mapping[Place, Slab]
    masked: bool = True

    def parameter(self, value: Hashable, dimension: int) -> Slab:
        known = self.slabs.get((value, dimension))
        if known is not None:
            return known
        return ZERO if self.view.is_float(value) else UNKNOWN  # no unit is removed along it


def surviving(analysis: Analysis, chosen: Mapping[str, Collection[Member]]) -> set[Axis]:
    """The atoms of which something is left when the chosen members of their units are zero."""
    view = analysis.view
    assert isinstance(view, FxView)
    walk = Walk(view, analysis.inference, ZeroedNumbers(view, slabs_of(analysis.classes, chosen)))
    axes = [contraction.axis for contraction in walk.run() if not contraction.removable.all()]
    axes += [axis for axis, _ in walk.not_finite]
    return {leaf for axis in axes for leaf in leaves(axis)} - analysis.inference.opened


def slabs_of(classes: Sequence[PruningClass], chosen: Mapping[str, Collection[Member]]) -> dict[Place, Slab]:
    """Zero at the indices of units that are zeroed there, unknown where a unit is not."""
    slabs: dict[Place, Slab] = {}
    for one in classes:
        for member in (*one.members, *one.spared):
            slab = slabs.setdefault((member.parameter, member.dimension), np.zeros(member.axis.size))
            if member not in chosen[one.name]:
                for owner in member.owners(one.atom):
                    slab[owner >= 0] = np.nan
    return {place: compact(slab) for place, slab in slabs.items()}


def compact(slab: Slab) -> Slab:
    """One number where all indices hold the same: rules can tell more about it."""
    missing = np.isnan(slab)
    return UNKNOWN if missing.all() else slab if missing.any() else ZERO
