"""Operators that write at computed places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from getac.axes.reasons import INDEXED, WRITTEN
from getac.rules.base import UNKNOWN, Axes, AxisContext, Rule, Slab, SlabContext, Slabs
from getac.rules.indexing import carried_by_index, tie_elements
from getac.rules.parts import common

__all__ = ["IndexPut", "IndexUpdate", "ScatterElements", "ScatterND"]


def written(c: SlabContext, data: Slab, updates: Slab, adds: bool) -> Slab:
    """What a slice holds after some of its entries were replaced, or added to."""
    both = common([data, updates])
    return np.where(both == 0, 0.0, np.nan) if adds else both


@dataclass(frozen=True)
class ScatterElements(Rule):
    """data with data[indices[i, j], j] = updates[i, j]. ONNX ScatterElements, aten.scatter, scatter_add.

    Inputs: data, indices, updates (absent where one number is written). A removed update would still write
    its zero, so that the updates' indexed dimension is frozen, too.

    Args:
        adds: Whether updates are combined with what is there by a sum or product.
    """

    axis: int
    adds: bool = False

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        data, indices, updates = c.input(0), c.input(1), c.optional_input(2)
        for dimension, (x, index) in enumerate(zip(data, indices, strict=True)):
            indexed = dimension == self.axis % len(data)
            tie_elements(c, x, index, indexed)
            if indexed:
                c.freeze(index, WRITTEN)
            if updates is not None:
                tie_elements(c, updates[dimension], index, indexed)
        return [data]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        if not c.has(2):
            return []
        result = [
            written(c, c.slab(0, i), c.slab(2, i), self.adds) if data == index else UNKNOWN
            for i, (data, index) in enumerate(zip(c.input_sizes(0), c.input_sizes(2), strict=True))
        ]
        result[self.axis % len(result)] = UNKNOWN
        return [tuple(result)]


@dataclass(frozen=True)
class ScatterND(Rule):
    """data with data[*indices[i]] = updates[i]. ONNX ScatterND: inputs data, indices, updates."""

    adds: bool = False

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        data, indices, updates = (c.input(i) for i in range(3))
        indexed = indices[-1].size
        for axis in (*data[:indexed], indices[-1]):
            c.freeze(axis, INDEXED)
        for axis in (*indices[:-1], *updates[: len(indices) - 1]):
            c.freeze(axis, WRITTEN)
        for x, update in zip(data[indexed:], updates[len(indices) - 1 :], strict=True):
            c.same(x, update)
        return [data]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        indices, rank = c.input_sizes(1), len(c.input_sizes(0))
        shift = len(indices) - 1 - indices[-1]
        rest = [written(c, c.slab(0, i), c.slab(2, i + shift), self.adds) for i in range(indices[-1], rank)]
        return [(*(UNKNOWN,) * indices[-1], *rest)]


@dataclass(frozen=True)
class IndexPut(Rule):
    """x with x[indices] = values. aten.index_put: inputs x, values, then one tensor per indexed dimension.

    Args:
        dimensions: The dimensions that are indexed, ascending.
        adds: Whether the values are added.
    """

    dimensions: tuple[int, ...]
    adds: bool = False

    def _carried(self, x: int, values: int, index_rank: int) -> list[tuple[int, int]]:
        """The dimensions of x that stay, each with the values' (negative: missing, hence stretched)."""
        rest, before = carried_by_index(self.dimensions, x)
        shift = values - len(rest) - index_rank
        return [
            (dimension, shift + place + (index_rank if place >= before else 0))
            for place, dimension in enumerate(rest)
        ]

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x, values = c.input(0), c.input(1)
        indices = [c.input(2 + i) for i in range(len(self.dimensions))]
        carried = self._carried(len(x), len(values), max(map(len, indices)))
        for dimension in self.dimensions:
            c.freeze(x[dimension], INDEXED)
        for axis in (axis for index in indices for axis in index):
            c.freeze(axis, WRITTEN)
        for dimension, place in carried:
            if place >= 0 and values[place].size > 1:
                c.same(x[dimension], values[place])
        for place in set(range(len(values))) - {place for _, place in carried}:
            c.freeze(values[place], WRITTEN)
        return [x]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        sizes, values = c.input_sizes(0), c.input_sizes(1)
        index_rank = max(len(c.input_sizes(2 + i)) for i in range(len(self.dimensions)))
        result = [UNKNOWN] * len(sizes)
        for dimension, place in self._carried(len(sizes), len(values), index_rank):
            if place >= 0 and values[place] == sizes[dimension]:
                result[dimension] = written(c, c.slab(0, dimension), c.slab(1, place), self.adds)
        return [tuple(result)]


@dataclass(frozen=True)
class IndexUpdate(Rule):
    """x with whole slices along a dimension replaced, or added to.

    aten.index_add, index_copy (inputs x, source, index), slice_scatter, select_scatter (inputs x, source).

    Args:
        adds: Whether the source is added.
        single: Whether it is one slice, without the dimension.
    """

    dimension: int
    adds: bool = False
    single: bool = False

    def _places(self, rank: int) -> list[tuple[int, int]]:
        """The dimensions of x that stay, each with the source's."""
        written_to = self.dimension % rank
        return [(i, i - (self.single and i > written_to)) for i in range(rank) if i != written_to]

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x, source = c.input(0), c.input(1)
        c.freeze(x[self.dimension % len(x)], INDEXED)
        if not self.single:
            c.freeze(source[self.dimension % len(x)], WRITTEN)
        for dimension, place in self._places(len(x)):
            c.same(x[dimension], source[place])
        return [x]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        result = [UNKNOWN] * len(c.sizes())
        for dimension, place in self._places(len(result)):
            result[dimension] = written(c, c.slab(0, dimension), c.slab(1, place), self.adds)
        return [tuple(result)]
