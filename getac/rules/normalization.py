"""Normalisations: what shares statistics must keep all of its units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from getac.axes.axis import product
from getac.axes.reasons import NORMALIZED, SPATIAL, Reason
from getac.axes.roles import GROUPS
from getac.rules.base import UNKNOWN, ZERO, Axes, AxisContext, Rule, SlabContext, Slabs

__all__ = ["BatchNorm", "GroupNorm", "LayerNorm", "Normalized"]


@dataclass(frozen=True)
class BatchNorm(Rule):
    """scale (x - mean) / sqrt(var + epsilon) + bias along dimension 1. ONNX BatchNormalization, inference.

    Inputs: x (N, C, ...), scale, bias, mean, var (C); what is absent is 1, 0, 0, 1.
    """

    epsilon: float = 1e-5

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x = c.input(0)
        for index in range(1, 5):
            if parameter := c.optional_input(index):
                c.same(x[1], parameter[0])
        return [x]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        x = c.slab(0, 1)
        scale, bias, mean, variance = (
            c.slab(index, 0) if c.has(index) else np.array(default)
            for index, default in ((1, 1.0), (2, 0.0), (3, 0.0), (4, 1.0))
        )
        if not scale.any():
            channel = bias
        else:
            normal = scale * (x - mean) / np.sqrt(np.abs(variance) + self.epsilon) + bias
            channel = np.where(scale == 0, bias, np.where(np.isfinite(normal), normal, np.nan))
        return [(UNKNOWN, channel, *(UNKNOWN,) * (len(c.sizes()) - 2))]


@dataclass(frozen=True)
class GroupNorm(Rule):
    """Statistics over groups of channels: C = groups x c, and c is frozen.

    ONNX GroupNormalization (version 21: scale and bias per channel) and, with `groups` None (one channel
    is one group), InstanceNormalization. Inputs: x (N, C, ...), scale, bias (C).
    """

    groups: int | None = None

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x = c.input(0)
        for index in (1, 2):
            if parameter := c.optional_input(index):
                c.same(x[1], parameter[0])
        for axis in x[2:]:
            c.freeze(axis, SPATIAL)
        if self.groups is not None:
            groups = c.atom(self.groups, "groups")
            inner = c.atom(x[1].size // self.groups, "of a group")
            c.freeze_statistics(inner, NORMALIZED)
            c.role(groups, GROUPS)
            c.same(x[1], product(groups, inner))
            c.size_site("groups", groups)
        return [x]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        scale = c.slab(1, 0) if c.has(1) else UNKNOWN
        bias = c.slab(2, 0) if c.has(2) else ZERO
        channel = np.where(scale == 0, bias, np.nan)
        return [(UNKNOWN, channel, *(UNKNOWN,) * (len(c.sizes()) - 2))]


@dataclass(frozen=True)
class LayerNorm(Rule):
    """Statistics over the dimensions from `axis` on, which are frozen. ONNX LayerNormalization.

    Args:
        shape_input: The input that lists the sizes of these dimensions, if one does.
    """

    axis: int = -1
    shape_input: int | None = None

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x = c.input(0)
        normalized = x[self.axis % len(x) :]
        for index in range(1, c.inputs):
            parameters = c.optional_input(index) or ()
            for axis, parameter in zip(reversed(normalized), reversed(parameters), strict=False):
                c.same(axis, parameter)
        for axis in normalized:
            c.freeze_statistics(axis, NORMALIZED)
        if self.shape_input is not None and (contents := c.contents(self.shape_input)):
            c.size_sites(contents, normalized)
        ones = tuple(c.atom(1) for _ in normalized)
        return [x, *[(*x[: self.axis % len(x)], *ones)] * (c.outputs - 1)]


@dataclass(frozen=True)
class Normalized(Rule):
    """Operators that mix the units of some dimensions and keep the shape: softmax, LRN, cumulative sums.

    Args:
        dimensions: The dimensions that are mixed; None: all.
        reason: Why they are frozen.
    """

    dimensions: tuple[int, ...] | None
    reason: Reason

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x = c.input(0)
        mixed = range(len(x)) if self.dimensions is None else self.dimensions
        for dimension in mixed:
            c.freeze(x[dimension], self.reason)
        return [x] * c.outputs
