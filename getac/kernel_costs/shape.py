"""What the time of a layer depends on: its shape, which kernel it has, and how it is run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

__all__ = ["COARSEST", "Kind", "LayerShape", "Strategy"]

COARSEST = 16
"""A multiple of channels that every kernel likes; also the most that unaligned channels are padded to."""

FEW = 4  # input channels of a convolution that has kernels of its own: those of an image
LARGE = 25  # taps above which a window on an image is like 7 x 7


class Strategy(Enum):
    """How a layer is run."""

    INTEGER = "integer"
    """Integer kernel: UINT8 activations, INT8 weights, whatever number of bits they are stored in."""
    WEIGHT_ONLY_8 = "weight-only-8"
    """MatMulNBits with weights of 8 bits: float activations, quantized on the fly."""
    WEIGHT_ONLY_4 = "weight-only-4"
    """MatMulNBits with weights of 4 bits."""
    FOLDED = "folded"
    """Stored integers that become float weights when the model is loaded: the kernels of floats."""
    FLOAT = "float"
    """Stored floats."""

    @property
    def measured_as(self) -> Strategy:
        """The strategy whose entries hold for this one."""
        return Strategy.FLOAT if self is Strategy.FOLDED else self


class Kind(Enum):
    """Layers whose kernels behave alike."""

    CONVOLUTION = "convolution"
    POINTWISE = "pointwise"
    DEPTHWISE = "depthwise"
    STEM = "stem"
    LARGE_STEM = "large stem"
    LINEAR = "linear"

    @property
    def taps(self) -> int:
        """The window with which the kind is measured, height times width."""
        return {"pointwise": 1, "linear": 1, "large stem": 49}.get(self.value, 9)


@dataclass(frozen=True)
class LayerShape:
    """A convolution or a matrix product.

    Args:
        channels_in: All of them, over all groups.
        channels_out: Likewise.
        positions: Output positions of a convolution, rows of a matrix product; those of all samples.
        taps: Height times width of a convolution's window; 0 for a matrix product.
        groups: 1 for a matrix product.
    """

    channels_in: int
    channels_out: int
    positions: int
    taps: int = 0
    groups: int = 1

    @property
    def kind(self) -> Kind:
        if not self.taps:
            return Kind.LINEAR
        if 1 < self.groups == self.channels_in:
            return Kind.DEPTHWISE
        if self.channels_in <= FEW:
            return Kind.LARGE_STEM if self.taps > LARGE else Kind.STEM
        return Kind.POINTWISE if self.taps == 1 else Kind.CONVOLUTION

    @property
    def macs(self) -> int:
        return self.channels_in // self.groups * self.channels_out * max(self.taps, 1) * self.positions

    @property
    def channels(self) -> float:
        """One number for both sides, by which measured entries are found.

        The geometric mean of a group's channels; the channels out where a group reads a fixed few.
        """
        if self.kind in (Kind.DEPTHWISE, Kind.STEM, Kind.LARGE_STEM):
            return self.channels_out
        return math.sqrt(max(1, self.channels_in // self.groups) * max(1, self.channels_out // self.groups))

    @property
    def sides(self) -> tuple[int, ...]:
        """The numbers of channels that alignment is about."""
        if self.kind in (Kind.STEM, Kind.LARGE_STEM):
            return (self.channels_out,)
        return (self.channels_in, self.channels_out)

    @classmethod
    def square(cls, kind: Kind, channels: int, positions: int) -> LayerShape:
        """As kinds are measured: as many channels in as out, three of an image."""
        if kind is Kind.LINEAR:
            return cls(channels, channels, positions)
        if kind in (Kind.STEM, Kind.LARGE_STEM):
            return cls(3, channels, positions, kind.taps)
        groups = channels if kind is Kind.DEPTHWISE else 1
        return cls(channels, channels, positions, kind.taps, groups)

    def padded(self, multiple: int) -> LayerShape:
        """The shape with both sides rounded up; groups of one channel stay so."""
        return self.with_sides(round_up(self.channels_in, multiple), round_up(self.channels_out, multiple))

    def at_least(self, channels: int) -> LayerShape:
        """The shape with no side below a number of channels."""
        return self.with_sides(max(self.channels_in, channels), max(self.channels_out, channels))

    def with_sides(self, into: int, out: int) -> LayerShape:
        """Other numbers of channels; an image keeps its few, and groups of one channel stay so."""
        if self.kind in (Kind.STEM, Kind.LARGE_STEM):
            into = self.channels_in
        groups = into if self.kind is Kind.DEPTHWISE else self.groups
        return LayerShape(into, out, self.positions, self.taps, groups)


def round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
