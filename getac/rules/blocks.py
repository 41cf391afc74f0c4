"""Operators between the depth and the pixels of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from getac.axes.axis import Axis, product
from getac.axes.reasons import PIXEL_BLOCK, SPATIAL
from getac.rules.base import UNKNOWN, Axes, AxisContext, Rule, SlabContext, Slabs
from getac.rules.layout import split

__all__ = ["DepthToSpace", "SpaceToDepth"]


def frozen_spatial(c: AxisContext, x: Axes, sizes: Sequence[int]) -> Axes:
    """Freezes an input's spatial dimensions and makes the output's."""
    for axis in x:
        c.freeze(axis, SPATIAL)
    return tuple(c.frozen_atom(size, SPATIAL) for size in sizes)


def block_by_channels(block: Axis, channels: Axis, outer: bool) -> Axis:
    return product(block, channels) if outer else product(channels, block)


@dataclass(frozen=True)
class DepthToSpace(Rule):
    """(..., C b b, H, W) -> (..., C, H b, W b). ONNX DepthToSpace, aten.pixel_shuffle.

    Args:
        block: b.
        outer: Whether the block is outermost among the channels (DCR); else the channels are (CRD, aten).
    """

    block: int
    outer: bool

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x = c.input(0)
        block = c.frozen_atom(self.block**2, PIXEL_BLOCK)
        channels = c.atom(x[-3].size // self.block**2, "channels")
        c.same(x[-3], block_by_channels(block, channels, self.outer))
        return [(*x[:-3], channels, *frozen_spatial(c, x[-2:], c.sizes()[-2:]))]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        dimension = len(c.sizes()) - 3
        channels = c.sizes()[dimension]
        block = self.block**2
        slab = c.slab(0, dimension)
        slab = split(slab, [block, channels])[1] if self.outer else split(slab, [channels, block])[0]
        return [(*(c.slab(0, i) for i in range(dimension)), slab, UNKNOWN, UNKNOWN)]


@dataclass(frozen=True)
class SpaceToDepth(Rule):
    """(..., C, H b, W b) -> (..., C b b, H, W). ONNX SpaceToDepth (outer), aten.pixel_unshuffle (inner)."""

    block: int
    outer: bool

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x = c.input(0)
        block = c.frozen_atom(self.block**2, PIXEL_BLOCK)
        spatial = frozen_spatial(c, x[-2:], c.sizes()[-2:])
        return [(*x[:-3], block_by_channels(block, x[-3], self.outer), *spatial)]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        dimension = len(c.sizes()) - 3
        slabs, sizes, live = [c.slab(0, dimension)], [c.input_sizes(0)[dimension]], [True]
        at = 0 if self.outer else 1  # the block, which is frozen
        slabs.insert(at, UNKNOWN)
        sizes.insert(at, self.block**2)
        live.insert(at, False)
        return [(*(c.slab(0, i) for i in range(dimension)), c.merge(slabs, sizes, live), UNKNOWN, UNKNOWN)]
