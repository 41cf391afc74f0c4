"""Gated linear units as one operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from getac.axes.axis import total
from getac.rules.base import Axes, AxisContext, Rule, SlabContext, Slabs

__all__ = ["GatedLinearUnit"]


@dataclass(frozen=True)
class GatedLinearUnit(Rule):
    """a sigmoid(b), with x = a and b end to end: a dimension is the same units twice. aten.glu."""

    dimension: int = -1

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x = c.input(0)
        dimension = self.dimension % len(x)
        half = c.atom(x[dimension].size // 2, "half")
        c.same(x[dimension], total(half, half))
        return [(*x[:dimension], half, *x[dimension + 1 :])]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        """Zero in the first half is zero; a zero second half gives a sigmoid(0), which nobody knows."""
        result = [np.where(c.slab(0, i) == 0, 0.0, np.nan) for i in range(len(c.sizes()))]
        dimension = self.dimension % len(result)
        half = c.sizes()[dimension]
        if result[dimension].ndim:
            result[dimension] = result[dimension][:half]
        return [tuple(result)]
