"""A matrix product with an addend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from getac.rules.base import Axes, AxisContext, SlabContext, Slabs
from getac.rules.contraction import MatMul
from getac.rules.elementwise import broadcast, operand

__all__ = ["MatMulAdd"]


@dataclass(frozen=True)
class MatMulAdd(MatMul):
    """a @ b + addend, which broadcasts. aten.baddbmm: inputs batch1, batch2, self."""

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        (out,) = super().axes(c)
        return [broadcast(c, [out, c.input(2)], c.sizes())]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        """Where the product is zero, the addend is left."""
        (out,) = super().slabs(c)
        addends = [operand(c, 2, position, len(out)) for position in range(len(out))]
        return [
            tuple(
                np.where(slab == 0, np.nan if addend is None else addend, np.nan)
                for slab, addend in zip(out, addends, strict=True)
            )
        ]
