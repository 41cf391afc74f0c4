"""Operators that read or write at computed places: what is indexed is frozen, the rest is carried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from getac.axes.axis import Axis
from getac.axes.reasons import INDEXED, PARTLY_INDEXED, SORTED, SPATIAL, WRITTEN
from getac.axes.roles import EMBEDDING
from getac.rules.base import UNKNOWN, Axes, AxisContext, Rule, Slab, SlabContext, Slabs
from getac.rules.elementwise import broadcast
from getac.rules.parts import common

__all__ = [
    "EmbeddingBag",
    "GatherElements",
    "GatherND",
    "Index",
    "IndexPut",
    "IndexUpdate",
    "MaskedEntries",
    "OneHot",
    "Sampled",
    "ScatterElements",
    "ScatterND",
    "TakenAlong",
    "TopK",
]


def written(c: SlabContext, data: Slab, updates: Slab, adds: bool) -> Slab:
    """What a slice holds after some of its entries were replaced, or added to."""
    both = common([data, updates])
    return np.where(both == 0, 0.0, np.nan) if adds else both


@dataclass(frozen=True)
class GatherElements(Rule):
    """out[i, j] = data[indices[i, j], j]. ONNX GatherElements, aten.gather: inputs data, indices.

    The other dimensions are the same; where the indices cover only a part of one, both are frozen.
    """

    axis: int

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        data, indices = c.input(0), c.input(1)
        for dimension, (x, index) in enumerate(zip(data, indices, strict=True)):
            tie_elements(c, x, index, dimension == self.axis % len(data))
        return [indices]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        data, indices = c.input_sizes(0), c.input_sizes(1)
        covered = [i != self.axis % len(data) and data[i] == indices[i] for i in range(len(data))]
        return [tuple(c.slab(0, i) if whole else UNKNOWN for i, whole in enumerate(covered))]


@dataclass(frozen=True)
class TakenAlong(Rule):
    """As `GatherElements`, where data and indices broadcast in the other dimensions. aten.take_along_dim."""

    axis: int

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        data, indices = c.input(0), c.input(1)
        out = list(broadcast(c, [data, indices], c.sizes()))
        c.freeze(data[self.axis], INDEXED)
        out[self.axis] = indices[self.axis]
        return [tuple(out)]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        carried = [size == new for size, new in zip(c.input_sizes(0), c.sizes(), strict=True)]
        carried[self.axis] = False
        return [tuple(c.slab(0, i) if whole else UNKNOWN for i, whole in enumerate(carried))]


@dataclass(frozen=True)
class EmbeddingBag(Rule):
    """Sums, means or maxima of rows of a table, one for each bag. aten.embedding_bag.

    Inputs: weight (rows, D), indices, offsets of the bags, maybe a factor for each index. Outputs: (bags, D)
    and what the gradient needs.
    """

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        weight = c.input(0)
        given = [axis for index in range(1, c.inputs) for axis in c.optional_input(index) or ()]
        for axis in (weight[0], *given):
            c.freeze(axis, INDEXED)
        c.role(weight[1], EMBEDDING)
        sizes = [c.sizes(output) for output in range(c.outputs)]
        others = [tuple(c.frozen_atom(size, INDEXED) for size in one) for one in sizes[1:]]
        return [(c.frozen_atom(sizes[0][0], INDEXED), weight[1]), *others]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        """An empty bag is zero."""
        return [(UNKNOWN, np.where(c.slab(0, 1) == 0, 0.0, np.nan))]


def tie_elements(c: AxisContext, data: Axis, index: Axis, indexed: bool) -> None:
    if indexed:
        c.freeze(data, INDEXED)
    elif data.size == index.size:
        c.same(data, index)
    else:
        c.freeze(data, PARTLY_INDEXED)
        c.freeze(index, PARTLY_INDEXED)


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
class GatherND(Rule):
    """out[b, i] = data[b, *indices[b, i]]: the last dimension of the indices counts the indexed ones.

    ONNX GatherND: inputs data (batch, indexed, rest), indices (batch, ..., number of indexed dimensions).
    """

    batch: int = 0

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        data, indices = c.input(0), c.input(1)
        for x, index in zip(data[: self.batch], indices[: self.batch], strict=True):
            c.same(x, index)
        stop = self.batch + indices[-1].size
        for axis in (*data[self.batch : stop], indices[-1]):
            c.freeze(axis, INDEXED)
        return [(*indices[:-1], *data[stop:])]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        indices, rank = c.input_sizes(1), len(c.input_sizes(0))
        rest = [c.slab(0, i) for i in range(self.batch + indices[-1], rank)]
        return [(*(UNKNOWN,) * (len(indices) - 1), *rest)]


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


def carried_by_index(dimensions: tuple[int, ...], rank: int) -> tuple[list[int], int]:
    """The dimensions that stay, and how many of them stand before those of the indices."""
    rest = [i for i in range(rank) if i not in dimensions]
    first, last = dimensions[0], dimensions[-1]
    return rest, first if last - first + 1 == len(dimensions) else 0


@dataclass(frozen=True)
class Index(Rule):
    """numpy's indexing by integer tensors. aten.index.Tensor.

    Inputs: x, then one tensor per indexed dimension. These broadcast. Their dimensions stand where the
    indexed ones stood if these are neighbours, else in front.

    Args:
        dimensions: The dimensions that are indexed, ascending.
    """

    dimensions: tuple[int, ...]

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x = c.input(0)
        for dimension in self.dimensions:
            c.freeze(x[dimension], INDEXED)
        rest, before = carried_by_index(self.dimensions, len(x))
        sizes = c.sizes()
        shape = sizes[before : before + len(sizes) - len(rest)]
        indices = broadcast(c, [c.input(1 + i) for i in range(len(self.dimensions))], shape)
        carried = [x[i] for i in rest]
        return [(*carried[:before], *indices, *carried[before:])]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        rest, before = carried_by_index(self.dimensions, len(c.input_sizes(0)))
        carried = [c.slab(0, i) for i in rest]
        indices = (UNKNOWN,) * (len(c.sizes()) - len(rest))
        return [(*carried[:before], *indices, *carried[before:])]


@dataclass(frozen=True)
class MaskedEntries(Rule):
    """The entries that a mask marks, as one new dimension. aten.index.Tensor by truth values.

    Inputs: x, and the mask, which covers some neighbouring dimensions of x.

    Args:
        dimension: The first of these dimensions.
    """

    dimension: int

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x, mask = c.input(0), c.input(1)
        behind = self.dimension + len(mask)
        for axis in (*x[self.dimension : behind], *mask):
            c.freeze(axis, INDEXED)
        marked = c.frozen_atom(c.sizes()[self.dimension], INDEXED)
        return [(*x[: self.dimension], marked, *x[behind:])]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        rank, covered = len(c.input_sizes(0)), len(c.input_sizes(1))
        before = (c.slab(0, i) for i in range(self.dimension))
        after = (c.slab(0, i) for i in range(self.dimension + covered, rank))
        return [(*before, UNKNOWN, *after)]


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


@dataclass(frozen=True)
class TopK(Rule):
    """The largest, or sorted, entries along a dimension, which is frozen. ONNX TopK, aten.topk and sort.

    Input: x. Outputs: the values and their indices, or (argsort) the indices alone.

    Args:
        values: Whether the first output holds the values.
    """

    axis: int
    values: bool = True

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        out = list(c.input(0))
        dimension = self.axis % len(out)
        c.freeze(out[dimension], SORTED)
        out[dimension] = c.frozen_atom(c.sizes()[dimension], SORTED)
        return [tuple(out)] * c.outputs

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        if not self.values:
            return []
        values = [c.slab(0, i) for i in range(len(c.sizes()))]
        values[self.axis % len(values)] = UNKNOWN
        return [tuple(values)]


@dataclass(frozen=True)
class OneHot(Rule):
    """Indices become a new, frozen dimension. ONNX OneHot, aten.one_hot: input 0 is the indices."""

    axis: int = -1

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        indices, sizes = c.input(0), c.sizes()
        dimension = self.axis % len(sizes)
        new = c.frozen_atom(sizes[dimension], INDEXED)
        return [(*indices[:dimension], new, *indices[dimension:])]


@dataclass(frozen=True)
class Sampled(Rule):
    """x (N, C, ...) read at computed places, each channel on its own: (N or regions, C, ...).

    ONNX GridSample, aten.grid_sampler: inputs x, grid (N, ..., dimensions).
    ONNX RoiAlign, MaxRoiPool: inputs x, regions (R, 4 or 5), and for RoiAlign the images (R) they lie in.

    Args:
        regions: Whether the output's first dimension counts regions.
    """

    regions: bool = False

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x, places = c.input(0), c.input(1)
        if self.regions:
            c.freeze(x[0], INDEXED)
            if images := c.optional_input(2):
                c.same(places[0], images[0])
        else:
            c.same(x[0], places[0])
        for axis in (*x[2:], *places[1:]):
            c.freeze(axis, SPATIAL)
        spatial = (c.frozen_atom(size, SPATIAL) for size in c.sizes()[2:])
        return [(places[0], x[1], *spatial)]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        """Zeros may come in from outside; a channel of zeros stays one."""
        channel = np.where(c.slab(0, 1) == 0, 0.0, np.nan)
        return [(UNKNOWN, channel, *(UNKNOWN,) * (len(c.sizes()) - 2))]
