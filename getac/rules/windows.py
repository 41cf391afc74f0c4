"""Operators that make windows, or sum them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from getac.axes.axis import product
from getac.axes.reasons import UNFOLD_WINDOW
from getac.rules.base import UNKNOWN, Axes, AxisContext, Rule, SlabContext, Slabs
from getac.rules.blocks import frozen_spatial
from getac.rules.layout import split
from getac.rules.rearrange import only_zero

__all__ = ["Fold", "Unfold", "Windows"]


@dataclass(frozen=True)
class Unfold(Rule):
    """Windows as columns: (N, C, ...) -> (N, C x window, positions). aten.im2col.

    Args:
        window: How many entries a window has.
    """

    window: int

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x = c.input(0)
        positions = frozen_spatial(c, x[2:], c.sizes()[2:])
        return [(x[0], product(x[1], c.frozen_atom(self.window, UNFOLD_WINDOW)), *positions)]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        sizes = [c.input_sizes(0)[1], self.window]
        return [(UNKNOWN, c.merge([only_zero(c.slab(0, 1)), UNKNOWN], sizes, [True, False]), UNKNOWN)]


@dataclass(frozen=True)
class Fold(Rule):
    """Sums columns into the windows that they come from: (N, C x window, positions) -> (N, C, ...).

    ONNX Col2Im, aten.col2im.
    """

    window: int

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x, sizes = c.input(0), c.sizes()
        channels = c.atom(sizes[1], "channels")
        c.same(x[1], product(channels, c.frozen_atom(self.window, UNFOLD_WINDOW)))
        return [(x[0], channels, *frozen_spatial(c, x[2:], sizes[2:]))]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        sizes = c.sizes()
        channels = split(only_zero(c.slab(0, 1)), [sizes[1], self.window])[0]
        return [(UNKNOWN, channels, *(UNKNOWN,) * (len(sizes) - 2))]


@dataclass(frozen=True)
class Windows(Rule):
    """Overlapping windows of one dimension become a last dimension; both are frozen. aten.unfold."""

    dimension: int

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        out = list(c.input(0))
        dimension = self.dimension % len(out)
        c.freeze(out[dimension], UNFOLD_WINDOW)
        out[dimension] = c.frozen_atom(c.sizes()[dimension], UNFOLD_WINDOW)
        return [(*out, c.frozen_atom(c.sizes()[-1], UNFOLD_WINDOW))]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        result = [c.slab(0, i) for i in range(len(c.input_sizes(0)))]
        result[self.dimension % len(result)] = UNKNOWN
        return [(*result, UNKNOWN)]
