"""Reductions over dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from getac.axes.reasons import EVERY_ENTRY, REDUCED
from getac.rules.base import UNKNOWN, Axes, AxisContext, Rule, Slab, SlabContext, Slabs

__all__ = ["Reduction"]


@dataclass(frozen=True)
class Reduction(Rule):
    """ONNX Reduce* and Arg*.

    A sum may lose terms that are zero; every other reduction freezes what it reduces, because its answer
    depends on how many units there are (mean) or on zeros among them (max, product).

    Args:
        dimensions: What is reduced; None: all.
        keeps: Whether reduced dimensions stay, with size 1.
        sums: Whether zero terms do not matter (sum, L1, L2, sum of squares).
        keeps_constant: Whether a slice of one number reduces to that number (mean, max, min).
    """

    dimensions: tuple[int, ...] | None
    keeps: bool
    sums: bool = False
    keeps_constant: bool = False

    def _reduced(self, rank: int) -> set[int]:
        return set(range(rank)) if self.dimensions is None else {d % rank for d in self.dimensions}

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x = c.input(0)
        reduced = self._reduced(len(x))
        out = []
        for dimension, axis in enumerate(x):
            if dimension not in reduced:
                out.append(axis)
                continue
            if not self.sums:
                if self.keeps_constant:
                    c.freeze_statistics(axis, REDUCED)
                else:
                    c.freeze(axis, EVERY_ENTRY)
            if self.keeps:
                out.append(c.atom(1))
        return [tuple(out)] * c.outputs

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        rank = len(c.input_sizes(0))
        reduced = self._reduced(rank)
        out: list[Slab] = []
        for dimension in range(rank):
            if dimension in reduced:
                c.contract(0, dimension, UNKNOWN)
                out += [UNKNOWN] * self.keeps
            else:
                out.append(self._carried(c.slab(0, dimension)))
        return [tuple(out)] * c.outputs

    def _carried(self, slab: Slab) -> Slab:
        if self.keeps_constant:
            return slab
        return np.where(slab == 0, 0.0, np.nan) if self.sums else UNKNOWN
