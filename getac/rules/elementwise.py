"""Element-wise operators with broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from getac.axes.axis import Axis
from getac.rules.base import UNKNOWN, Axes, AxisContext, Rule, Slab, SlabContext, Slabs

__all__ = ["Elementwise", "ParametricRelu", "Select", "broadcast"]


def broadcast(c: AxisContext, inputs: Sequence[Axes], sizes: tuple[int, ...]) -> Axes:
    """Dimensions of equal size are the same axis; a dimension of size 1 ties nothing.

    Args:
        inputs: The axes of the operands, aligned at the last dimension (numpy's broadcasting).
        sizes: The result's sizes.
    """
    result: list[Axis | None] = [None] * len(sizes)
    for axes in inputs:
        offset = len(sizes) - len(axes)
        for position, axis in enumerate(axes, start=offset):
            if axis.size != sizes[position]:
                continue  # size 1, stretched
            known = result[position]
            if known is None:
                result[position] = axis
            else:
                c.same(known, axis)
    return tuple(axis if axis is not None else c.atom(size) for axis, size in zip(result, sizes, strict=True))


def operand(c: SlabContext, index: int, position: int, rank: int) -> Slab | None:
    """An operand's slab along the result's dimension `position`; what is stretched must be one number."""
    if not c.has(index):
        return None
    sizes = c.input_sizes(index)
    dimension = position - (rank - len(sizes))
    if dimension >= 0 and sizes[dimension] > 1:
        return c.slab(index, dimension)
    return c.number(index)


@dataclass(frozen=True)
class Elementwise(Rule):
    """Any operator whose result at an index depends on its operands at that index alone.

    Args:
        operands: How many leading inputs are operands; None: all of them.
        absorbing: Whether one operand that is zero makes the result zero (Mul, And).
        keeps_integers: Whether integers pass through unchanged (Identity, a cast between integer types).
        value: What the result holds: what the operator computes, what its first operand holds (a cast, a
            dropout), or something unknown (random numbers).
        types: Inputs that only name a type.
    """

    operands: int | None = None
    absorbing: bool = False
    keeps_integers: bool = False
    value: Literal["computed", "first", "unknown"] = "computed"
    types: tuple[int, ...] = ()

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        count = self.operands if self.operands is not None else c.inputs
        inputs = [axes for i in range(count) if (axes := c.optional_input(i)) is not None]
        for index in self.types:
            c.optional_input(index)
        if self.keeps_integers and (contents := c.contents(0)):
            c.set_contents(contents)
        return [broadcast(c, inputs, c.sizes())] * c.outputs

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        rank = len(c.sizes())
        wanted = map(c.may_lose_units, range(rank))
        return [tuple(self._slab(c, i, rank) if may else UNKNOWN for i, may in enumerate(wanted))]

    def _slab(self, c: SlabContext, position: int, rank: int) -> Slab:
        if self.value != "computed":
            first = operand(c, 0, position, rank) if self.value == "first" else None
            return UNKNOWN if first is None else first
        count = self.operands if self.operands is not None else c.inputs
        operands = [operand(c, index, position, rank) for index in range(count)]
        result = c.evaluate(position, operands)
        if self.absorbing:
            for slab in operands:
                result = result if slab is None else np.where(slab == 0, 0.0, result)
        return result


@dataclass(frozen=True)
class Select(Rule):
    """Where(condition, x, y): takes x or y at each index; one of them may be a number."""

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        operands = [axes for i in range(3) if (axes := c.optional_input(i)) is not None]
        return [broadcast(c, operands, c.sizes())]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        rank = len(c.sizes())
        return [tuple(self._slab(c, position, rank) for position in range(rank))]

    def _slab(self, c: SlabContext, position: int, rank: int) -> Slab:
        x, y = operand(c, 1, position, rank), operand(c, 2, position, rank)
        if x is None or y is None:
            return UNKNOWN
        return np.where(x == y, x, np.nan)  # the condition does not matter where both hold the same


@dataclass(frozen=True)
class ParametricRelu(Rule):
    """max(x, 0) + slope min(x, 0) with a slope per channel: x (N, C, ...), slope (C). aten.prelu."""

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x, slope = c.input(0), c.input(1)
        c.same(x[1], slope[0])
        return [x]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        """What is not negative stays."""
        slabs = (c.slab(0, i) for i in range(len(c.sizes())))
        return [tuple(np.where(slab >= 0, slab, np.nan) for slab in slabs)]
