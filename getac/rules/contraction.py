"""Matrix products and convolutions: the contracted dimensions are the same axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from getac.axes.axis import Axis, leaves, product
from getac.axes.reasons import CONVOLUTION_WINDOW, SPATIAL
from getac.axes.roles import CHANNELS, GROUPS, HEADS, PRODUCT_COLUMNS, QK_DIMENSIONS, V_DIMENSIONS
from getac.rules.base import UNKNOWN, ZERO, Axes, AxisContext, Floats, Rule, Slab, SlabContext, Slabs
from getac.rules.elementwise import broadcast

__all__ = ["Convolution", "Gemm", "Linear", "MatMul", "attention_roles"]


def output_slab(c: SlabContext, weight: Slab, bias: int | None, bias_dimension: int = 0) -> Slab:
    """An output unit whose weights are all zero holds its bias, whatever the input."""
    constant = c.slab(bias, bias_dimension) if bias is not None and c.has(bias) else ZERO
    return np.where(weight == 0, constant, np.nan)


@dataclass(frozen=True)
class Convolution(Rule):
    """Convolution of any rank, transposed or not: inputs x (N, C, ...), weight, bias.

    Weights are (out, in / groups, ...); transposed: (in, out / groups, ...). With groups,
    in = groups x i and out = groups x o, row-major. ONNX Conv and ConvTranspose.

    Args:
        padded: Whether zeros surround the input, so that a constant slice does not stay constant.
    """

    groups: int = 1
    transposed: bool = False
    padded: bool = True

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x, weight = c.input(0), c.input(1)
        into, out = self._transposed_axes(c, weight) if self.transposed else self._axes(c, weight)
        c.same(x[1], into)
        if bias := c.optional_input(2):
            c.same(out, bias[0])
        c.role(into, CHANNELS)
        c.role(out, CHANNELS)
        for axis in x[2:]:
            c.freeze(axis, SPATIAL)
        for axis in weight[2:]:
            c.freeze(axis, CONVOLUTION_WINDOW)
        spatial = (c.frozen_atom(size, SPATIAL) for size in c.sizes()[2:])
        return [(x[0], out, *spatial)]

    def _axes(self, c: AxisContext, weight: Axes) -> tuple[Axis, Axis]:
        """The axes of the input's and of the output's channels."""
        if self.groups == 1:
            return weight[1], weight[0]
        groups = self._groups_axis(c, weight[0].size)
        c.same(weight[0], product(groups, c.atom(weight[0].size // self.groups, "of a group")))
        return product(groups, weight[1]), weight[0]

    def _transposed_axes(self, c: AxisContext, weight: Axes) -> tuple[Axis, Axis]:
        if self.groups == 1:
            return weight[0], weight[1]
        groups = self._groups_axis(c, weight[0].size)
        c.same(weight[0], product(groups, c.atom(weight[0].size // self.groups, "of a group")))
        return weight[0], product(groups, weight[1])

    def _groups_axis(self, c: AxisContext, channels: int) -> Axis:
        groups = c.atom(self.groups, "groups")
        c.size_site("groups", groups)
        if self.groups < channels:  # else it is depthwise, and each group a channel
            c.role(groups, GROUPS)
        return groups

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        unknown = (UNKNOWN,) * (len(c.sizes()) - 2)
        foldable = not self.padded and not self.transposed and self.groups == 1
        if self.groups == 1:
            into, out = (0, 1) if self.transposed else (1, 0)
            c.contract(0, 1, c.slab(1, into), foldable=foldable)
            return [(UNKNOWN, output_slab(c, c.slab(1, out), 2), *unknown)]
        if self.input_channels_per_group(c) == 1:
            return [(UNKNOWN, self._depthwise_output(c), *unknown)]
        # One input channel meets only its group's part of the weight, which has no slab of its own: only
        # where both of the weight's dimensions are zero (the masked model) is the product surely zero.
        both = (c.slab(1, 0) == 0).all() and (c.slab(1, 1) == 0).all()
        weight = ZERO if both else UNKNOWN
        c.contract(0, 1, weight)
        return [(UNKNOWN, output_slab(c, weight if self.transposed else c.slab(1, 0), 2), *unknown)]

    def input_channels_per_group(self, c: SlabContext) -> int:
        return c.input_sizes(0)[1] // self.groups

    def _depthwise_output(self, c: SlabContext) -> Slab:
        """Nothing is contracted: a channel that is zero gives its bias."""
        if self.transposed:
            return output_slab(c, ZERO, 2) if (c.slab(0, 1) == 0).all() else UNKNOWN
        out = output_slab(c, c.slab(1, 0), 2)
        multiplier = c.sizes()[1] // self.groups
        inputs = c.slab(0, 1)
        zero = inputs == 0 if inputs.ndim == 0 else np.repeat(inputs == 0, multiplier)
        return np.where(zero, output_slab(c, ZERO, 2), out)

    def bias_from_constants(self, weight: Floats, constants: Floats) -> Floats:
        return np.asarray(weight.sum(axis=tuple(range(2, weight.ndim))) @ constants)

    def macs(self, inputs: Sequence[tuple[int, ...] | None], output: tuple[int, ...]) -> int:
        x, weight = inputs[0], inputs[1]
        assert x is not None and weight is not None
        per_position = math.prod(weight[1:])
        return per_position * math.prod(x if self.transposed else output)


def attention_roles(c: AxisContext, batch: Axes, summed: Axis, columns: Axis) -> None:
    """Names for a product of two activations, as attention has them.

    Args:
        batch: The dimensions that both have: those of the graph's batch, and then the heads.
        summed: What is summed away: the dimensions of queries and keys.
        columns: What the second alone has: the dimensions of values.
    """
    c.role(product(*batch[1:]) if len(batch) > 1 else batch[0], HEADS)
    c.role(summed, QK_DIMENSIONS)
    has_heads = len(batch) > 1 or len(leaves(batch[0])) > 1  # else it may be a graph's adjacency, say
    c.role(columns, V_DIMENSIONS if has_heads else PRODUCT_COLUMNS)


@dataclass(frozen=True)
class MatMul(Rule):
    """numpy's matmul: (..., M, K) @ (..., K, N), with broadcast batch dimensions. ONNX MatMul."""

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        a, b = c.input(0), c.input(1)
        c.same(a[-1], b[-2] if len(b) > 1 else b[0])
        rows = a[-2:-1]
        columns = b[-1:] if len(b) > 1 else ()
        batch_rank = len(c.sizes()) - len(rows) - len(columns)
        batch = broadcast(c, [a[:-2], b[:-2]], c.sizes()[:batch_rank])
        self._roles(c, batch, a, b)
        return [(*batch, *rows, *columns)]

    def _roles(self, c: AxisContext, batch: Axes, a: Axes, b: Axes) -> None:
        if c.is_weight(1):
            c.layer(b[-2] if len(b) > 1 else b[0], b[-1] if len(b) > 1 else c.atom(1))
        elif len(a) > 1 and (c.is_weight(0) or b[-1].size == 1):  # or matrices that tokens chose, of experts
            c.layer(a[-1], a[-2])
        elif batch:
            attention_roles(c, batch, a[-1], b[-1])

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        a, b = len(c.input_sizes(0)), len(c.input_sizes(1))
        c.contract(0, a - 1, c.slab(1, b - 2 if b > 1 else 0), foldable=b == 2)
        rows = [np.where(c.slab(0, a - 2) == 0, 0.0, np.nan)] if a > 1 else []
        columns = [np.where(c.slab(1, b - 1) == 0, 0.0, np.nan)] if b > 1 else []
        batch_rank = len(c.sizes()) - len(rows) - len(columns)
        batch = [self._batch_slab(c, batch_rank - position) for position in range(batch_rank)]
        return [(*batch, *rows, *columns)]

    def _batch_slab(self, c: SlabContext, from_rows: int) -> Slab:
        """A batch entry of which either side is zero gives zeros."""
        result = UNKNOWN
        for index in (0, 1):
            dimension = len(c.input_sizes(index)) - 2 - from_rows
            if dimension >= 0 and c.input_sizes(index)[dimension] > 1:
                result = np.where(c.slab(index, dimension) == 0, 0.0, result)
        return result

    def bias_from_constants(self, weight: Floats, constants: Floats) -> Floats:
        return np.asarray(constants @ weight)

    def macs(self, inputs: Sequence[tuple[int, ...] | None], output: tuple[int, ...]) -> int:
        assert inputs[0] is not None
        return math.prod(output) * inputs[0][-1]


@dataclass(frozen=True)
class Gemm(Rule):
    """alpha A B + beta C with optional transpositions. ONNX Gemm."""

    transpose_a: bool = False
    transpose_b: bool = False
    alpha: float = 1.0
    beta: float = 1.0

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        a, b = c.input(0), c.input(1)
        rows, inner_a = reversed(a) if self.transpose_a else a
        inner_b, columns = reversed(b) if self.transpose_b else b
        c.same(inner_a, inner_b)
        c.layer(inner_b, columns)
        out = (rows, columns)
        if bias := c.optional_input(2):
            broadcast(c, [out, bias], c.sizes())
        return [out]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        inner_b, columns = (1, 0) if self.transpose_b else (0, 1)
        c.contract(0, 0 if self.transpose_a else 1, c.slab(1, inner_b), foldable=self.beta != 0)
        if not c.has(2):
            return [(UNKNOWN, output_slab(c, c.slab(1, columns), None))]
        bias_sizes = c.input_sizes(2)
        if not bias_sizes or bias_sizes[-1] != c.sizes()[1]:
            bias = c.number(2)
        else:
            bias = c.slab(2, len(bias_sizes) - 1)
        bias = self.beta * bias if self.beta else ZERO  # with a beta of 0 it is not even read
        return [(UNKNOWN, np.where(c.slab(1, columns) == 0, bias, np.nan))]

    def bias_from_constants(self, weight: Floats, constants: Floats) -> Floats:
        return np.asarray(self.alpha * (weight @ constants if self.transpose_b else constants @ weight))

    def macs(self, inputs: Sequence[tuple[int, ...] | None], output: tuple[int, ...]) -> int:
        assert inputs[0] is not None
        return math.prod(output) * inputs[0][0 if self.transpose_a else 1]


@dataclass(frozen=True)
class Linear(Rule):
    """x (..., in) times the transpose of a weight (out, in), plus a bias (out). aten.linear."""

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x, weight = c.input(0), c.input(1)
        c.same(x[-1], weight[-1])
        c.layer(weight[-1], weight[0])
        if bias := c.optional_input(2):
            c.same(weight[0], bias[0])
        return [(*x[:-1], *weight[:-1])]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        rank = len(c.input_sizes(0))
        c.contract(0, rank - 1, c.slab(1, 1), foldable=True)
        return [(*(UNKNOWN,) * (rank - 1), output_slab(c, c.slab(1, 0), 2))]

    def bias_from_constants(self, weight: Floats, constants: Floats) -> Floats:
        return np.asarray(weight @ constants)

    def macs(self, inputs: Sequence[tuple[int, ...] | None], output: tuple[int, ...]) -> int:
        assert inputs[0] is not None
        return math.prod(output) * inputs[0][-1]
