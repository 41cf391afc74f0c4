"""Operators that move, repeat or regroup entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from getac.axes.axis import product
from getac.axes.reasons import (
    COMPLEX,
    COMPUTED_REPEATS,
    DIAGONAL,
    DIFFERENCES,
    INDEXED,
    STACKED,
    Reason,
)
from getac.rules.base import UNKNOWN, Axes, AxisContext, Rule, Slab, SlabContext, Slabs
from getac.rules.parts import common

__all__ = [
    "ChannelShuffle",
    "ComplexParts",
    "Diagonal",
    "Differences",
    "Reordered",
    "RepeatInterleave",
    "Stack",
    "Tile",
    "Unbind",
]


def only_zero(slab: Slab) -> Slab:
    """A slab after zeros were mixed in, or summed: only zero stays what it was."""
    return np.where(slab == 0, 0.0, np.nan)


@dataclass(frozen=True)
class ChannelShuffle(Rule):
    """(N, g x c, ...) -> (N, c x g, ...). aten.channel_shuffle; the site "groups" is g."""

    groups: int

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x = c.input(0)
        groups, inner = c.atom(self.groups, "groups"), c.atom(x[1].size // self.groups, "of a group")
        c.same(x[1], product(groups, inner))
        c.size_site("groups", groups)
        return [(x[0], product(inner, groups), *x[2:])]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        slab = c.slab(0, 1)
        if slab.ndim:
            slab = slab.reshape(self.groups, -1).T.reshape(-1)
        return [(c.slab(0, 0), slab, *(c.slab(0, i) for i in range(2, len(c.sizes()))))]


@dataclass(frozen=True)
class Tile(Rule):
    """Repeats the whole tensor along each dimension: repeats x size, row-major.

    ONNX Tile, aten.repeat, tile: inputs x and the list of repeats, which may be longer than x has dimensions,
    or (aten.tile) shorter: it is filled up with ones in front.
    """

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x, sizes = c.input(0), c.sizes()
        missing = len(sizes) - len(x)
        inner = [*(c.atom(1) for _ in range(missing)), *x]
        repeats = [c.atom(size // axis.size, "repeats") for size, axis in zip(sizes, inner, strict=True)]
        contents = c.contents(1)
        if contents is None or len(contents) > len(repeats):
            for axis in repeats:
                c.freeze(axis, COMPUTED_REPEATS)
        else:
            c.size_sites(contents, repeats[len(repeats) - len(contents) :])
        return [tuple(product(*pair) for pair in zip(repeats, inner, strict=True))]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        sizes, before = c.sizes(), c.input_sizes(0)
        missing = len(sizes) - len(before)
        result: list[Slab] = []
        for position, size in enumerate(sizes):
            own = before[position - missing] if position >= missing else 1
            repeats = size // own
            if repeats == 1:
                result.append(c.slab(0, position - missing))
            else:  # all repeats hold the same: the tensor along this dimension
                inner = c.slab(0, position - missing) if own > 1 else UNKNOWN
                result.append(c.merge([c.number(0), inner], [repeats, own], [True, own > 1]))
        return [tuple(result)]


@dataclass(frozen=True)
class RepeatInterleave(Rule):
    """Repeats each index of a dimension: size x repeats. aten.repeat_interleave.self_int.

    Inputs: x. The site "repeats" is the number of repeats.
    """

    dimension: int

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x = c.input(0)
        dimension = self.dimension % len(x)
        repeats = c.atom(c.sizes()[dimension] // x[dimension].size, "repeats")
        c.size_site("repeats", repeats)
        return [(*x[:dimension], product(x[dimension], repeats), *x[dimension + 1 :])]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        result = [c.slab(0, i) for i in range(len(c.sizes()))]
        dimension = self.dimension % len(result)
        own = c.input_sizes(0)[dimension]
        repeats = c.sizes()[dimension] // own
        if repeats > 1:
            result[dimension] = c.merge([result[dimension], UNKNOWN], [own, repeats], [True, True])
        return [tuple(result)]


@dataclass(frozen=True)
class Reordered(Rule):
    """Entries move along some dimensions, which are frozen and may change their sizes.

    ONNX Trilu, CumSum, DFT, ReverseSequence; aten.roll, flip, tril, triu.

    Args:
        dimensions: Where they move.
        reason: Why these are frozen.
        zeros: Whether zeros or sums come in, so that a constant slice stays one only if it is zero.
    """

    dimensions: tuple[int, ...]
    reason: Reason
    zeros: bool = False

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        out = list(c.input(0))
        for dimension in self.dimensions:
            c.freeze(out[dimension], self.reason)
            if c.sizes()[dimension] != out[dimension].size:
                out[dimension] = c.frozen_atom(c.sizes()[dimension], self.reason)
        return [tuple(out)] * c.outputs

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        result = [c.slab(0, i) for i in range(len(c.sizes()))]
        if self.zeros:
            result = [only_zero(slab) for slab in result]
        for dimension in self.dimensions:
            result[dimension] = UNKNOWN
        return [tuple(result)]


@dataclass(frozen=True)
class Differences(Rule):
    """Differences of neighbours along a dimension, which is frozen. aten.diff.

    Inputs: x, and optionally what stands before and behind it along the dimension.
    """

    dimension: int

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x = list(c.input(0))
        dimension = self.dimension % len(x)
        for other in (c.optional_input(1), c.optional_input(2)):
            for position, axis in enumerate(other or ()):
                if position == dimension:
                    c.freeze(axis, DIFFERENCES)
                else:
                    c.same(x[position], axis)
        c.freeze(x[dimension], DIFFERENCES)
        x[dimension] = c.frozen_atom(c.sizes()[dimension], DIFFERENCES)
        return [tuple(x)]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        there = [index for index in range(3) if c.has(index)]
        rank = len(c.sizes())
        result = [only_zero(common([c.slab(index, i) for index in there])) for i in range(rank)]
        result[self.dimension % rank] = UNKNOWN
        return [tuple(result)]


@dataclass(frozen=True)
class Stack(Rule):
    """Puts equal tensors beside each other along a new dimension, which is frozen. aten.stack."""

    dimension: int

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        first, *others = (c.input(i) for i in range(c.inputs))
        for other in others:
            for x, y in zip(first, other, strict=True):
                c.same(x, y)
        dimension = self.dimension % (len(first) + 1)
        return [(*first[:dimension], c.frozen_atom(c.inputs, STACKED), *first[dimension:])]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        rank = len(c.sizes()) - 1
        slabs = [common([c.slab(i, position) for i in range(c.inputs)]) for position in range(rank)]
        slabs.insert(self.dimension % (rank + 1), UNKNOWN)
        return [tuple(slabs)]


@dataclass(frozen=True)
class ComplexParts(Rule):
    """Pairs along a last, frozen dimension are complex numbers. aten.view_as_complex, view_as_real.

    Args:
        joined: Whether the pairs become numbers, or numbers become pairs.
    """

    joined: bool

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x = c.input(0)
        if not self.joined:
            return [(*x, c.frozen_atom(2, COMPLEX))]
        c.freeze(x[-1], COMPLEX)
        return [x[:-1]]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        carried = min(len(c.sizes()), len(c.input_sizes(0)))
        pair = () if self.joined else (UNKNOWN,)
        return [(*(only_zero(c.slab(0, i)) for i in range(carried)), *pair)]


@dataclass(frozen=True)
class Unbind(Rule):
    """Single indices of a dimension, which is frozen and goes. aten.select.int (one output), unbind (all)."""

    dimension: int

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x = c.input(0)
        dimension = self.dimension % len(x)
        c.freeze(x[dimension], INDEXED)
        return [(*x[:dimension], *x[dimension + 1 :])] * c.outputs

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        rank = len(c.input_sizes(0))
        slabs = tuple(c.slab(0, i) for i in range(rank) if i != self.dimension % rank)
        return [slabs] * c.outputs


@dataclass(frozen=True)
class Diagonal(Rule):
    """The diagonal of two dimensions, which are frozen, as a last one. aten.diagonal."""

    dimensions: tuple[int, int]

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x = c.input(0)
        for dimension in self.dimensions:
            c.freeze(x[dimension], DIAGONAL)
        rest = (axis for i, axis in enumerate(x) if i not in self.dimensions)
        return [(*rest, c.frozen_atom(c.sizes()[-1], DIAGONAL))]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        rank = len(c.input_sizes(0))
        return [(*(c.slab(0, i) for i in range(rank) if i not in self.dimensions), UNKNOWN)]
