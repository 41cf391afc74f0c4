"""Operators that read at computed places: what is indexed is frozen, the rest is carried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from getac.axes.axis import Axis
from getac.axes.reasons import INDEXED, PARTLY_INDEXED, SORTED, SPATIAL
from getac.axes.roles import EMBEDDING
from getac.rules.base import UNKNOWN, Axes, AxisContext, Rule, SlabContext, Slabs
from getac.rules.elementwise import broadcast

__all__ = [
    "EmbeddingBag",
    "GatherElements",
    "GatherND",
    "Index",
    "MaskedEntries",
    "OneHot",
    "Sampled",
    "TakenAlong",
    "TopK",
]


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
