"""Weight normalisation: a direction and a length per output channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from getac.axes.reasons import NOT_FINITE
from getac.rules.base import UNKNOWN, Axes, AxisContext, Rule, SlabContext, Slabs

__all__ = ["WeightNorm"]


@dataclass(frozen=True)
class WeightNorm(Rule):
    """g v / |v|, with the norm over all dimensions but one. aten._weight_norm, _weight_norm_interface.

    Inputs: v, and g of size 1 in all other dimensions. Outputs: the weight, and maybe the norms, shaped as g.

    Zeros do not change a norm, so that input channels may go. A direction of zeros would become 0 / 0: an
    output channel is masked by its length alone, which takes v and g to be stored; else it is frozen.

    Args:
        dimension: The dimension that keeps its own lengths; None: there is one length for all.
    """

    dimension: int | None = 0

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        v, g = c.input(0), c.input(1)
        if self.dimension is not None:
            own = v[self.dimension]
            for axis in g:
                if axis.size != 1:
                    c.same(axis, own)
            if c.is_parameter(0) and c.is_parameter(1):
                c.spare(0, self.dimension)
            else:
                c.freeze(own, NOT_FINITE)
        return [v, g][: c.outputs]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        result = []
        for position in range(len(c.sizes())):
            if position == self.dimension:
                finite = c.slab(0, position) != 0
                result.append(np.where((c.slab(1, position) == 0) & finite, 0.0, np.nan))
                continue
            c.contract(0, position, UNKNOWN)
            result.append(np.where(c.slab(0, position) == 0, 0.0, np.nan))
        return [tuple(result)]
