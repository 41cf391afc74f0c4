"""Measured times of single layers, and what they predict for others.

    seconds(layer) = max(node, MACs x rate(channels, positions) x penalty)

`rate` is in seconds per MAC: bilinear in the logarithms of both coordinates between the measured entries, and
constant outside. A layer whose channels are no multiple that its kernel likes counts as one that is padded to
multiples of 16, times the penalty: what unaligned channels were measured to take, relative to padded ones.
Fewer than 16 channels count as 16: no kernel is quicker with fewer, integer convolutions even slower.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from getac.kernel_costs.shape import COARSEST, Kind, LayerShape, Strategy

__all__ = ["CostTable", "Grid", "Steps", "Transitions"]

WASTEFUL = 1.2
"""Unaligned channels are avoided where they take this much longer than aligned ones would, in proportion."""


@dataclass(frozen=True)
class Grid:
    """Seconds of one kernel at aligned channels.

    Args:
        channels: Ascending.
        positions: Ascending.
        seconds: For each number of channels, for each number of positions.
    """

    kind: Kind
    channels: Sequence[int]
    positions: Sequence[int]
    seconds: Sequence[Sequence[float]]

    @cached_property
    def log_rates(self) -> list[list[float]]:
        """ln(seconds per MAC) of every entry."""
        return [
            [
                math.log(seconds / LayerShape.square(self.kind, channels, positions).macs)
                for positions, seconds in zip(self.positions, row, strict=True)
            ]
            for channels, row in zip(self.channels, self.seconds, strict=True)
        ]

    def rate(self, channels: float, positions: float) -> float:
        """Seconds per MAC."""
        row, down = bracket(self.channels, channels)
        column, right = bracket(self.positions, positions)
        above, below = self.log_rates[row], self.log_rates[min(row + 1, len(self.channels) - 1)]
        last = min(column + 1, len(self.positions) - 1)
        upper = above[column] * (1 - right) + above[last] * right
        lower = below[column] * (1 - right) + below[last] * right
        return math.exp(upper * (1 - down) + lower * down)


@dataclass(frozen=True)
class Steps:
    """Seconds of one kernel at numbers of channels from one multiple of 16 to the next."""

    kind: Kind
    channels: Sequence[int]
    seconds: Sequence[float]

    @cached_property
    def multiple(self) -> int:
        """The least multiple of channels that wastes little, as all greater ones do.

        waste = seconds / (the straight line between both multiples of 16)
        """
        liked = COARSEST
        for divisor in sorted(self._entries, reverse=True):
            entries = self._entries[divisor]
            waste = sum(seconds / self._line(count) for count, seconds in entries) / len(entries)
            if waste > WASTEFUL:
                break
            liked = divisor
        return liked

    def penalty(self, divisor: int) -> float:
        """What channels with this power of two as a divisor take, relative to padded ones; at least 1."""
        entries = self._entries.get(divisor, [])
        padded = self.seconds[-1] * max(1, len(entries))
        return max(1.0, sum(seconds for _, seconds in entries) / padded)

    @cached_property
    def _entries(self) -> dict[int, list[tuple[int, float]]]:
        """Power of two that divides the channels -> channels and seconds, of what is between the ends."""
        found: dict[int, list[tuple[int, float]]] = {}
        for count, seconds in zip(self.channels[1:-1], self.seconds[1:-1], strict=True):
            found.setdefault(math.gcd(count, COARSEST), []).append((count, seconds))
        return found

    def _line(self, count: int) -> float:
        part = (count - self.channels[0]) / COARSEST
        return self.seconds[0] * (1 - part) + self.seconds[-1] * part


@dataclass(frozen=True)
class Transitions:
    """Seconds per element where activations change their type.

    Args:
        to_integers: QuantizeLinear, and the layout that the integer kernel wants.
        to_floats: DequantizeLinear, likewise.
    """

    to_integers: float
    to_floats: float


@dataclass(frozen=True)
class CostTable:
    """What kernels take on one machine, one thread.

    Args:
        machine: The processor, in words.
        onnxruntime: The version that was measured.
        call: What one run takes around its nodes, in seconds.
        node: What any operator takes at least, in seconds.
        grids: Kernel -> entries at aligned channels.
        steps: Kernel -> entries at consecutive channels.
        transitions: Those around convolutions, and those around matrix products.
        additions: Seconds per element of an element-wise operator between convolutions, by its type.
    """

    machine: Mapping[str, str]
    onnxruntime: str
    call: float
    node: float
    grids: Mapping[tuple[Kind, Strategy], Grid]
    steps: Mapping[tuple[Kind, Strategy], Steps]
    transitions: Mapping[Kind, Transitions]
    additions: Mapping[Strategy, float]

    def seconds(self, shape: LayerShape, strategy: Strategy) -> float:
        """The predicted time of a layer.

        Raises:
            KeyError: The strategy does not exist for this kind of layer (`has`).
        """
        grid, steps = self.grids[shape.kind, strategy.measured_as], self._steps(shape.kind, strategy)
        penalty = 1.0
        if steps is not None:
            divisor = math.gcd(COARSEST, *shape.sides)
            if divisor % steps.multiple:
                shape, penalty = shape.padded(COARSEST), steps.penalty(divisor)
        shape = shape.at_least(COARSEST)
        return max(self.node, shape.macs * grid.rate(shape.channels, shape.positions) * penalty)

    def has(self, kind: Kind, strategy: Strategy) -> bool:
        """Whether layers of a kind can be run in this way."""
        return (kind, strategy.measured_as) in self.grids

    def multiple(self, kind: Kind, strategy: Strategy) -> int:
        """The multiple of channels that this machine's kernel likes: 1, 2, 4, 8 or 16."""
        steps = self._steps(kind, strategy)
        return 1 if steps is None else steps.multiple

    def _steps(self, kind: Kind, strategy: Strategy) -> Steps | None:
        """Convolutions with other windows take the steps of 3 x 3, whose kernels they share."""
        like = kind if kind in (Kind.DEPTHWISE, Kind.LINEAR) else Kind.CONVOLUTION
        return self.steps.get((like, strategy.measured_as))


def bracket(points: Sequence[int], x: float) -> tuple[int, float]:
    """The index of the last point before x, and how far x is from there to the next, in logarithms."""
    x = min(max(x, points[0]), points[-1])
    index = max(0, min(bisect_right(points, x), len(points) - 1) - 1)
    if len(points) == 1:
        return 0, 0.0
    low, high = points[index], points[index + 1]
    return index, math.log(x / low) / math.log(high / low)
