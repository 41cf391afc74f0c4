"""Pooling, resizing and padding: windows over spatial dimensions; batch and channels are carried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from getac.rules.base import UNKNOWN, Axes, AxisContext, Rule, SlabContext, Slabs

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
    """

    keeps_constant: bool = True
    sizes_input: int | None = None
    spatial: int | None = None

    def _leading(self, rank: int) -> int:
        return 2 if self.spatial is None else max(rank - self.spatial, 0)

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x, sizes = c.input(0), c.sizes()
        leading = self._leading(len(x))
        for axis in x[leading:]:
            c.freeze(axis, "a spatial dimension")
        carried = []
        for axis, size in zip(x[:leading], sizes[:leading], strict=True):
            if axis.size != size:
                c.freeze(axis, "a resized dimension")
                axis = c.frozen_atom(size, "a resized dimension")
            carried.append(axis)
        spatial = (c.frozen_atom(size, "a spatial dimension") for size in sizes[leading:])
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
    """Dimensions that grow are frozen, the others are carried. ONNX Pad.

    Args:
        padded: Whether each dimension is padded or cut.
        zeros: Whether the filling is not taken from the tensor's own edge.
        filling: The number that is filled in, where it is not input 2.
    """

    padded: tuple[bool, ...]
    zeros: bool = True
    filling: float = 0.0

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        result = []
        for axis, size, padded in zip(c.input(0), c.sizes(), self.padded, strict=True):
            if padded:
                c.freeze(axis, "a padded dimension")
                axis = c.frozen_atom(size, "a padded dimension")
            result.append(axis)
        return [tuple(result)]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        filling = c.number(2) if c.has(2) else np.array(self.filling)
        result = []
        for dimension, padded in enumerate(self.padded):
            slab = UNKNOWN if padded else c.slab(0, dimension)
            result.append(np.where(slab == filling, slab, np.nan) if self.zeros else slab)
        return [tuple(result)]
