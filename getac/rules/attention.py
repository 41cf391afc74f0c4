"""Scaled dot-product attention as one operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from getac.axes.axis import product
from getac.axes.reasons import CAUSAL, SOFTMAX
from getac.axes.roles import HEADS, QK_DIMENSIONS, V_DIMENSIONS
from getac.rules.base import UNKNOWN, Axes, AxisContext, Rule, Slab, SlabContext, Slabs
from getac.rules.elementwise import broadcast

__all__ = ["Attention"]


@dataclass(frozen=True)
class Attention(Rule):
    """softmax(scale Q K^T + mask) V. aten.scaled_dot_product_attention.

    Inputs: query (..., Hq, T, d), key (..., Hk, S, d), value (..., Hk, S, dv), and optionally a mask that
    broadcasts to (..., Hq, T, S). Output: (..., Hq, T, dv). Sharing key and value heads means
    Hq = Hk x repeats, row-major: a repeat can go from all heads, a key head goes with all its repeats.

    Args:
        grouped: Whether query heads share key and value heads.
        causal: Whether a query's position decides what it sees, which freezes T.
        implicit_scale: Whether the scale is derived from d, as d^-1/2; it is kept at its old value, at the
            site "scale".
    """

    grouped: bool = False
    causal: bool = False
    implicit_scale: bool = True

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        query, key, value = (c.input(index) for index in range(3))
        c.same(query[-1], key[-1])
        c.same(key[-2], value[-2])
        c.freeze(key[-2], SOFTMAX)
        if self.causal:
            c.freeze(query[-2], CAUSAL)
        if self.implicit_scale:
            c.keep_number("scale", query[-1].size ** -0.5, query[-1])
        batch = self._batch(c, query, key, value)
        if batch:
            c.role(batch[-1], HEADS)
        c.role(query[-1], QK_DIMENSIONS)
        c.role(value[-1], V_DIMENSIONS)
        if mask := c.optional_input(3):
            scores = (*batch, query[-2], key[-2])
            broadcast(c, [scores, mask], tuple(axis.size for axis in scores))
        return [(*batch, query[-2], value[-1])]

    def _batch(self, c: AxisContext, query: Axes, key: Axes, value: Axes) -> Axes:
        """The dimensions before the positions, heads included."""
        sizes = c.sizes()[:-2]
        if not self.grouped:
            return broadcast(c, [query[:-2], key[:-2], value[:-2]], sizes)
        c.same(key[-3], value[-3])
        repeats = c.atom(query[-3].size // key[-3].size, "repeats")
        c.same(query[-3], product(key[-3], repeats))
        return (*broadcast(c, [query[:-3], key[:-3], value[:-3]], sizes[:-1]), query[-3])

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        """Rows of weights sum to one: what is zero in every value is zero in the result."""
        c.contract(0, len(c.input_sizes(0)) - 1, c.slab(1, len(c.input_sizes(1)) - 1))
        sizes = c.sizes()
        rank = len(sizes)
        offset = rank - len(c.input_sizes(2))
        result: list[Slab] = [UNKNOWN] * rank
        for position in [*range(offset, rank - 2), rank - 1]:
            result[position] = self._values(c, position - offset, sizes[position])
        return [tuple(result)]

    def _values(self, c: SlabContext, dimension: int, size: int) -> Slab:
        own = c.input_sizes(2)[dimension]
        slab = np.where(c.slab(2, dimension) == 0, 0.0, np.nan)
        if own == size:
            return slab
        if own == 1:
            return UNKNOWN  # stretched: the values do not know which unit is gone
        return c.merge([slab, UNKNOWN], [own, size // own], [True, True])

    def macs(self, inputs: Sequence[tuple[int, ...] | None], output: tuple[int, ...]) -> int:
        query, key = inputs[0], inputs[1]
        assert query is not None and key is not None
        return math.prod(output[:-1]) * key[-2] * (query[-1] + output[-1])
