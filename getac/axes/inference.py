"""The solved equations of a graph."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from getac.axes.axis import Axis, Freeze, freeze
from getac.axes.contents import Derived, Entry, Literal, Site, SizeOf
from getac.rules.base import Axes

__all__ = ["Inference", "OpaqueNode", "pin"]


@dataclass(frozen=True)
class OpaqueNode:
    """A node whose operator maps no units: everything that it touches is frozen."""

    name: str
    operator: str
    reason: str
    hint: str


@dataclass
class Inference:
    """The solved equations of a graph.

    Args:
        axes: Value -> one axis type per dimension, for every value of known shape.
        sites: Where a size is written down -> the axis that it is the size of.
        opaque: The nodes without a rule, with the reason.
        pinned: Literals that are used as numbers too, so that they must stay as they are.
        derived: Where a number can be written that else follows from a size.
        parameters: The stored tensors.
        statistics: Axes that statistics are taken over, which freezes them unless a person opens them.
        opened: The atoms that were opened so.
        roles: What operators call an axis, such as "heads".
        layers: The axes that weights multiply, and those that come out.
        weights: The values that are stored, or computed from stored ones alone.
        spared: Dimensions of stored tensors that masking leaves as they are.
    """

    axes: dict[Hashable, Axes] = field(default_factory=dict)
    sites: dict[Site, Axis] = field(default_factory=dict)
    opaque: list[OpaqueNode] = field(default_factory=list)
    pinned: dict[Site, Freeze] = field(default_factory=dict)
    derived: dict[Site, Derived] = field(default_factory=dict)
    parameters: frozenset[Hashable] = frozenset()
    statistics: list[tuple[Axis, Freeze]] = field(default_factory=list)
    opened: set[Axis] = field(default_factory=set)
    roles: list[tuple[Axis, str]] = field(default_factory=list)
    layers: list[tuple[Axis, Axis]] = field(default_factory=list)
    weights: set[Hashable] = field(default_factory=set)
    spared: set[tuple[Hashable, int]] = field(default_factory=set)


def pin(entry: Entry, result: Inference, why: Freeze) -> None:
    """Keeps the number that an entry is: of a literal, what other nodes take it for the size of."""
    if isinstance(entry, Literal):
        result.pinned[entry.site] = why
        if entry.site in result.sites:
            freeze(result.sites[entry.site], why)
    elif isinstance(entry, SizeOf):
        freeze(entry.axis, why)
