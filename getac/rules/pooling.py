"""Pooling, resizing and padding: windows over spatial dimensions; batch and channels are carried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from getac.axes.axis import total
from getac.axes.reasons import PADDED, PADDING, RESIZED, SPATIAL
from getac.rules.base import UNKNOWN, Axes, AxisContext, Rule, Slab, SlabContext, Slabs
from getac.rules.parts import end_to_end

__all__ = ["Pad", "Spatial"]


@dataclass(frozen=True)
class Spatial(Rule):
    """x (..., C, spatial ...) -> (..., C, spatial ...), each channel on its own.

    ONNX pooling operators, Resize, Upsample.

    Args:
        keeps_constant: Whether a channel that holds one number everywhere still does; where zeros are
            mixed in (padding that counts), only a channel of zeros does.
        sizes_input: The input that lists the output's sizes, for Resize.
        spatial: How many trailing dimensions are spatial; None: all but two.
        maximum: Whether every entry is the greatest of a window.
    """

    keeps_constant: bool = True
    sizes_input: int | None = None
    spatial: int | None = None
    maximum: bool = False

    def _leading(self, rank: int) -> int:
        return 2 if self.spatial is None else max(rank - self.spatial, 0)

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x, sizes = c.input(0), c.sizes()
        leading = self._leading(len(x))
        for axis in x[leading:]:
            c.freeze(axis, SPATIAL)
        carried = []
        for axis, size in zip(x[:leading], sizes[:leading], strict=True):
            if axis.size != size:
                c.freeze(axis, RESIZED)
                axis = c.frozen_atom(size, RESIZED)
            carried.append(axis)
        spatial = (c.frozen_atom(size, SPATIAL) for size in sizes[leading:])
        out = (*carried, *spatial)
        contents = c.contents(self.sizes_input) if self.sizes_input is not None else None
        if contents is not None and len(contents) == len(out):
            c.size_sites(contents, out)
        return [out] * c.outputs

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        rank = len(c.sizes())
        leading = self._leading(rank)
        carried = [c.slab(0, dimension) for dimension in range(leading)]
        if not self.keeps_constant:
            carried = [np.where(slab == 0, 0.0, np.nan) for slab in carried]
        return [(*carried, *(UNKNOWN,) * (rank - leading))]


@dataclass(frozen=True)
class Pad(Rule):
    """Puts a number around the entries, which are a part between two frozen ones. ONNX Pad.

    A dimension that is filled up with its own entries, or cut, is frozen.

    Args:
        amounts: How many entries come in before and behind each dimension; negative: how many go.
        zeros: Whether the filling is not taken from the tensor's own edge.
        filling: The number that is filled in, where it is not input 2.
    """

    amounts: tuple[tuple[int, int], ...]
    zeros: bool = True
    filling: float = 0.0

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        result = []
        for axis, size, (before, after) in zip(c.input(0), c.sizes(), self.amounts, strict=True):
            if self.zeros and min(before, after) >= 0:
                axis = total(c.frozen_atom(before, PADDING), axis, c.frozen_atom(after, PADDING))
            elif before or after:
                c.freeze(axis, PADDED)
                axis = c.frozen_atom(size, PADDED)
            result.append(axis)
        return [tuple(result)]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        filling = c.number(2) if c.has(2) else np.array(self.filling)
        result = []
        for dimension, (before, after) in enumerate(self.amounts):
            slab = c.slab(0, dimension)
            if self.zeros:
                slab = np.where(slab == filling, slab, np.nan)
            if before or after:
                slab = self._surrounded(slab, filling, (before, c.input_sizes(0)[dimension], after))
            result.append(slab)
        return [tuple(result)]

    def _surrounded(self, slab: Slab, filling: Slab, sizes: tuple[int, int, int]) -> Slab:
        if not self.zeros or min(sizes) < 0:
            return UNKNOWN
        return end_to_end([filling, slab, filling], sizes)
