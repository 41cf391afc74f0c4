"""Operators whose result depends on sizes, not on numbers: shape, constant of shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from getac.axes.contents import Fixed, SizeOf
from getac.axes.reasons import COMPUTED_FILL, SIZE_LIST, Reason
from getac.rules.base import Axes, AxisContext, Rule, SlabContext, Slabs

__all__ = ["Filled", "FilledLike", "Fresh", "Grid", "ShapeOf"]


@dataclass(frozen=True)
class ShapeOf(Rule):
    """The sizes of dimensions start <= i < stop, as a list of integers. ONNX Shape."""

    start: int
    stop: int

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        c.contents(0)  # of a list of sizes, only the length matters
        c.set_contents(tuple(SizeOf(axis) for axis in c.input(0)[self.start : self.stop]))
        return [tuple(c.frozen_atom(size, SIZE_LIST) for size in c.sizes())]


@dataclass(frozen=True)
class Filled(Rule):
    """A tensor of given sizes that holds one number. ONNX ConstantOfShape."""

    number: float

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        out = tuple(c.atom(size) for size in c.sizes())
        if len(out) == 1 and self.number.is_integer():
            c.set_contents((Fixed(int(self.number)),) * out[0].size)
        contents = c.contents(0)
        if contents is None:
            for axis in out:
                c.freeze(axis, COMPUTED_FILL)
        else:
            c.size_sites(contents, out)
        return [out]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        return [(np.array(self.number),) * len(c.sizes())]


@dataclass(frozen=True)
class FilledLike(Rule):
    """A tensor of another's sizes that holds one number. aten.fill, zero_."""

    number: float

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        return [c.input(0)]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        return [(np.array(self.number),) * len(c.sizes())]


@dataclass(frozen=True)
class Grid(Rule):
    """Each vector as a tensor over the dimensions of all of them. aten.meshgrid.

    Args:
        swapped: Whether the first two dimensions change places ("xy").
    """

    swapped: bool = False

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        vectors = [c.input(index) for index in range(c.inputs)]
        out = [vector[0] if vector else c.atom(1) for vector in vectors]
        if self.swapped:
            out[:2] = reversed(out[:2])
        return [tuple(out)] * c.outputs


@dataclass(frozen=True)
class Fresh(Rule):
    """A tensor that no input's units reach: ranges, random numbers. Frozen, with the reason given."""

    reason: Reason

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        return [
            tuple(c.frozen_atom(size, self.reason) for size in c.sizes(output)) for output in range(c.outputs)
        ]
