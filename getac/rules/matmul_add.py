"""A matrix product with an addend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from getac.rules.base import ZERO, Axes, AxisContext, Rule, Slab, SlabContext, Slabs
from getac.rules.contraction import MatMul
from getac.rules.einsum import Einsum
from getac.rules.elementwise import broadcast, operand

__all__ = ["EinsumAdd", "MatMulAdd"]


def with_addend(c: AxisContext, out: Axes) -> Axes:
    """Input 2 is added, and broadcasts."""
    return broadcast(c, [out, c.input(2)], c.sizes())


def left_of(c: SlabContext, product: Slabs, beta: float) -> Slabs:
    """Where the product is zero, beta times the addend is left; with a beta of 0 it is not even read."""
    addends = [operand(c, 2, position, len(product)) for position in range(len(product))]
    return tuple(
        np.where(slab == 0, scaled(addend, beta), np.nan)
        for slab, addend in zip(product, addends, strict=True)
    )


def scaled(addend: Slab | None, beta: float) -> Slab:
    if beta == 0:
        return ZERO
    return np.array(np.nan) if addend is None else beta * addend


@dataclass(frozen=True)
class MatMulAdd(MatMul):
    """alpha a @ b + beta addend, which broadcasts. aten.baddbmm, addmv: inputs a, b, addend.

    Zero times alpha is zero, so that alpha need not be known.
    """

    beta: float = 1.0

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        (out,) = super().axes(c)
        return [with_addend(c, out)]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        (out,) = super().slabs(c)
        return [left_of(c, out, self.beta)]


@dataclass(frozen=True)
class EinsumAdd(Rule):
    """alpha times an einsum of two operands, plus beta addend. aten.addbmm, addr: inputs a, b, addend."""

    product: Einsum
    beta: float = 1.0

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        (out,) = self.product.axes(c)
        return [with_addend(c, out)]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        (out,) = self.product.slabs(c)
        return [left_of(c, out, self.beta)]

    def macs(self, inputs: Sequence[tuple[int, ...] | None], output: tuple[int, ...]) -> int:
        return self.product.macs(inputs[:2], output)
