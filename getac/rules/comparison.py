"""Operators that make one number of two vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from getac.axes.axis import Axis
from getac.axes.reasons import EVERY_ENTRY
from getac.rules.base import UNKNOWN, Axes, AxisContext, Rule, SlabContext, Slabs
from getac.rules.contraction import output_slab
from getac.rules.elementwise import broadcast

__all__ = ["Bilinear", "Distance", "PairDistances"]


@dataclass(frozen=True)
class Distance(Rule):
    """A similarity or distance along one dimension of x and y, which broadcast.

    aten.cosine_similarity, pairwise_distance.

    Args:
        dimension: Of the broadcast vectors.
        keeps: Whether the dimension stays, with size 1.
        sums: Whether entries that are zero in both do not matter, as no epsilon is added to each.
    """

    dimension: int
    keeps: bool = False
    sums: bool = True

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x, y = c.input(0), c.input(1)
        rank = max(len(x), len(y))
        sizes = [max(size_at(axes, i - rank) for axes in (x, y)) for i in range(rank)]
        both = list(broadcast(c, [x, y], tuple(sizes)))
        dimension = self.dimension % rank
        if not self.sums or size_at(x, dimension - rank) != size_at(y, dimension - rank):
            c.freeze(both[dimension], EVERY_ENTRY)
        both[dimension : dimension + 1] = [c.atom(1)] if self.keeps else []
        return [tuple(both)]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        rank = max(len(c.input_sizes(0)), len(c.input_sizes(1)))
        for index in (0, 1):
            place = self.dimension % rank - rank + len(c.input_sizes(index))
            if place >= 0:
                c.contract(index, place, UNKNOWN)
        return []


def size_at(axes: Axes, place: int) -> int:
    """The size at a place counted from the end, 1 in front of the first dimension."""
    return axes[place].size if -place <= len(axes) else 1


@dataclass(frozen=True)
class PairDistances(Rule):
    """x (..., P, M), y (..., R, M) -> (..., P, R): of every row to every row. aten.cdist."""

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x, y = c.input(0), c.input(1)
        c.same(x[-1], y[-1])
        return [(*broadcast(c, [x[:-2], y[:-2]], c.sizes()[:-2]), x[-2], y[-2])]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        """What is zero in both rows does not matter."""
        for index in (0, 1):
            c.contract(index, len(c.input_sizes(index)) - 1, UNKNOWN)
        return []


@dataclass(frozen=True)
class Bilinear(Rule):
    """x (..., i), y (..., j), weight (o, i, j), bias (o) -> (..., o). aten.bilinear."""

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x, y, weight = c.input(0), c.input(1), c.input(2)
        lead: list[Axis] = []
        for one, other in zip(x[:-1], y[:-1], strict=True):
            c.same(one, other)
            lead.append(one)
        for axis, row in ((x[-1], weight[1]), (y[-1], weight[2])):
            c.same(axis, row)
            c.layer(row, weight[0])
        if bias := c.optional_input(3):
            c.same(weight[0], bias[0])
        return [(*lead, weight[0])]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        last = len(c.input_sizes(0)) - 1
        c.contract(0, last, c.slab(2, 1))
        c.contract(1, last, c.slab(2, 2))
        return [(*(UNKNOWN,) * last, output_slab(c, c.slab(2, 0), 3))]

    def macs(self, inputs: Sequence[tuple[int, ...] | None], output: tuple[int, ...]) -> int:
        """First with x, then with y."""
        weight = inputs[2]
        assert weight is not None
        positions = 1
        for size in output[:-1]:
            positions *= size
        return positions * weight[0] * weight[2] * (weight[1] + 1)
