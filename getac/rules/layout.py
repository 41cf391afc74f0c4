"""Operators that only lay out the same entries anew: reshape, transpose, expand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from getac.axes.axis import Axis, product, resolve
from getac.axes.contents import Literal
from getac.axes.reasons import COMPUTED_EXPAND, COMPUTED_RESHAPE, COPIED_SIZE
from getac.rules.base import UNKNOWN, Axes, AxisContext, Rule, Slab, SlabContext, Slabs

__all__ = ["Expand", "Reshape", "ReshapeAs", "Transpose"]


def runs(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Pairs the shortest runs of dimensions with equal products; dimensions of size 1 are left out.

    (B, T, 768) and (B, T, 12, 64) give ([0], [0]), ([1], [1]), ([2], [2, 3]).
    """
    left = [i for i, size in enumerate(before) if size != 1]
    right = [j for j, size in enumerate(after) if size != 1]
    while left and right:
        ins, outs = [left.pop(0)], [right.pop(0)]
        size_in, size_out = before[ins[0]], after[outs[0]]
        while size_in != size_out:
            if size_in < size_out:
                ins.append(left.pop(0))
                size_in *= before[ins[-1]]
            else:
                outs.append(right.pop(0))
                size_out *= after[outs[-1]]
        yield ins, outs


@dataclass(frozen=True)
class Reshape(Rule):
    """Row-major order is kept: the products of each run of dimensions with equal size are equal.

    ONNX Reshape, Flatten, Squeeze, Unsqueeze.

    Args:
        shape_input: The input that lists the new sizes; None where they follow by themselves.
        copies_zeros: Whether a 0 among the new sizes copies the input's size at its place.
        keeps_entries: Whether a list of integers keeps its entries (squeeze, unsqueeze).
        first: The dimension that the list of sizes begins with, where it is not the whole shape (unflatten).
    """

    shape_input: int | None = None
    copies_zeros: bool = True
    keeps_entries: bool = False
    first: int | None = None

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x, sizes = c.input(0), c.sizes()
        out = [c.atom(size) for size in sizes]
        for ins, outs in runs([axis.size for axis in x], sizes):
            if len(outs) == 1 and len(ins) == 1:
                out[outs[0]] = x[ins[0]]
            else:
                c.same(product(*(x[i] for i in ins)), product(*(out[j] for j in outs)))
        if self.keeps_entries and len(x) <= 1 and (contents := c.contents(0)):
            c.set_contents(contents)
        if self.shape_input is not None:
            self._sites(c, x, out)
        return [tuple(out)]

    def _sites(self, c: AxisContext, x: Axes, out: list[Axis]) -> None:
        """The new sizes: literals, copies (0), one inferred (-1), or sizes computed from other axes."""
        contents = c.contents(self.shape_input or 0)
        if self.first is not None and contents is not None:
            out = out[self.first : self.first + len(contents)]
        if contents is None or len(contents) != len(out):
            for axis in out:
                c.freeze(axis, COMPUTED_RESHAPE)
            return
        c.size_sites(contents, out)
        if not self.copies_zeros:
            return
        for position, entry in enumerate(contents):
            if not (isinstance(entry, Literal) and entry.value == 0):
                continue
            if resolve(out[position]) is not resolve(x[position]):
                c.freeze(out[position], COPIED_SIZE)
                c.freeze(x[position], COPIED_SIZE)

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        before, after = c.input_sizes(0), c.sizes()
        result = [UNKNOWN] * len(after)
        for ins, outs in runs(before, after):
            merged = c.merge(
                [c.slab(0, i) for i in ins], [before[i] for i in ins], [c.live(0, i) for i in ins]
            )
            for position, slab in zip(outs, split(merged, [after[j] for j in outs]), strict=True):
                result[position] = slab
        return [tuple(result)]


@dataclass(frozen=True)
class ReshapeAs(Reshape):
    """A reshape to the sizes of another tensor: the axes are the other's. aten.view_as, reshape_as."""

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        (out,) = super().axes(c)
        for axis, other in zip(out, c.input(1), strict=True):
            c.same(axis, other)
        return [out]


def split(merged: Slab, sizes: Sequence[int]) -> list[Slab]:
    """The slabs of the factors of a product: known where every index that a unit owns holds the same."""
    if merged.ndim == 0 or len(sizes) == 1:
        return [merged] * len(sizes)
    grid = merged.reshape(sizes)
    result = []
    for position in range(len(sizes)):
        rows = np.moveaxis(grid, position, 0).reshape(sizes[position], -1)
        same = (rows == rows[:, :1]).all(axis=1)
        result.append(np.where(same, rows[:, 0], np.nan))
    return result


@dataclass(frozen=True)
class Transpose(Rule):
    """Dimensions change places. ONNX Transpose.

    Args:
        permutation: The input dimension that each output dimension is.
    """

    permutation: tuple[int, ...]

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x = c.input(0)
        return [tuple(x[dimension] for dimension in self.permutation)]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        return [tuple(c.slab(0, dimension) for dimension in self.permutation)]


@dataclass(frozen=True)
class Expand(Rule):
    """Dimensions of size 1 are repeated: the new ones are fresh. ONNX Expand: inputs x, shape."""

    shape_input: int = 1

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x, sizes = c.input(0), c.sizes()
        offset = len(sizes) - len(x)
        out = [
            x[i - offset] if i >= offset and x[i - offset].size == size else c.atom(size)
            for i, size in enumerate(sizes)
        ]
        contents = c.contents(self.shape_input)
        if contents is None:
            for axis in out:
                c.freeze(axis, COMPUTED_EXPAND)
        else:
            start = len(sizes) - len(contents)
            c.size_sites(contents, out[start:])
        return [tuple(out)]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        sizes, before = c.sizes(), c.input_sizes(0)
        offset = len(sizes) - len(before)
        return [
            tuple(
                c.slab(0, i - offset) if i >= offset and before[i - offset] == size else c.number(0)
                for i, size in enumerate(sizes)
            )
        ]
