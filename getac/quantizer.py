"""The quantizer record: one description for every way of rounding a tensor to a lattice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from getac.errors import BadInputError

__all__ = ["Quantizer"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Quantizer:
    """Rounds to the lattice {step * k : low <= k <= high}, ties to even. Compared by value.

        x_Q = step * clip(round(x / step), low, high)

    A symmetric b-bit quantizer has -low = high = 2^(b-1) - 1; an unsigned one has low = 0. Where the
    integers are stored (which zero point, which type) is the writer's choice and not part of the record.

    Args:
        step: d, the distance of two lattice points, positive. Shape () for the whole tensor; (size of the
            axis,) with `axis`; with `block` that of the tensor, `axis` counting blocks.
        low: The least integer.
        high: The greatest integer.
        axis: The dimension that has a step of its own per index, or per block; None: one for all.
        block: How many indices of `axis` share a step (the last block may be shorter), and nothing else
            does: all other dimensions have one per index. None: `axis` is the only dimension with steps.
    """

    step: Floats
    low: int
    high: int
    axis: int | None = None
    block: int | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.step).all() and (self.step > 0).all()):
            raise BadInputError(
                "a quantizer has a step that is not a positive number",
                found=f"steps from {self.step.min()} to {self.step.max()}",
                hint="re-export the model; a layer with all-zero weights may have been given the step 0",
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Quantizer):
            return NotImplemented
        return self._numbers == other._numbers and np.array_equal(self.step, other.step)

    def __hash__(self) -> int:
        return hash((*self._numbers, self.step.tobytes()))

    @property
    def _numbers(self) -> tuple[int, int, int | None, int | None]:
        return self.low, self.high, self.axis, self.block

    @property
    def bits(self) -> int:
        """The least number of bits that holds all of the lattice's integers."""
        return max(int(np.ceil(np.log2(self.high - self.low + 1))), 1)

    @property
    def signed(self) -> bool:
        return self.low < 0

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether there are as many steps as a tensor of the given shape needs."""
        if self.axis is None:
            return self.step.shape == ()
        if self.block is None:
            return self.axis < len(shape) and self.step.shape == (shape[self.axis],)
        blocks = [-(-n // self.block) if i == self.axis else n for i, n in enumerate(shape)]
        return self.step.shape == tuple(blocks)

    def steps_for(self, shape: Sequence[int]) -> Floats:
        """The steps, shaped to broadcast against a tensor of the given shape."""
        if self.axis is None:
            return self.step
        if self.block is not None:
            repeated = np.repeat(self.step, self.block, axis=self.axis)
            return repeated.take(range(shape[self.axis]), axis=self.axis)
        return self.step.reshape([-1 if i == self.axis else 1 for i in range(len(shape))])

    def integers(self, x: Floats) -> npt.NDArray[np.int32]:
        """round(x / step), clipped to the lattice."""
        with np.errstate(over="ignore"):  # a quotient beyond float32 is clipped like any other
            scaled = np.rint(x / self.steps_for(x.shape))
        integers: npt.NDArray[np.int32] = np.clip(scaled, self.low, self.high).astype(np.int32)
        return integers

    def quantize(self, x: Floats) -> Floats:
        """x_Q, in float32."""
        return self.integers(x).astype(np.float32) * self.steps_for(x.shape)

    def take(self, kept: npt.NDArray[np.bool_], dimension: int) -> Quantizer:
        """The quantizer of a tensor that keeps the marked indices of one of its dimensions.

        Blocks that lose indices unevenly are made of smaller ones that share a step: of 1 in the end.
        """
        if self.block is None:
            return replace(self, step=self.step[kept]) if self.axis == dimension else self
        if self.axis != dimension:
            return replace(self, step=np.compress(kept, self.step, axis=dimension))
        owners = np.flatnonzero(kept) // self.block
        block = next(size for size in divisors(self.block) if all_alike(owners, size))
        return replace(self, step=self.step.take(owners[::block], axis=dimension), block=block)

    def transposed(self) -> Quantizer:
        """The quantizer of the transposed matrix."""
        axis = None if self.axis is None else 1 - self.axis
        return replace(self, axis=axis, step=self.step.T)

    @classmethod
    def symmetric(cls, maximum: npt.NDArray[np.generic], bits: int, axis: int | None = None) -> Quantizer:
        """The b-bit quantizer whose outermost points are +-maximum (per index of `axis`).

        d = q_m / (2^(b-1) - 1), equation (3) of arXiv 2502.16638 at t = 1. Where the maximum is zero, any
        step does; it is 1.

        Raises:
            BadInputError: A maximum is negative or not finite, or there are less than 2 bits.
        """
        check_bits(bits, least=2)
        high = 2 ** (bits - 1) - 1
        step = np.asarray(maximum, dtype=np.float32) / np.float32(high)
        return cls(np.where(step == 0, np.float32(1), step).astype(np.float32), -high, high, axis)

    @classmethod
    def ranged(cls, lowest: float, highest: float, bits: int) -> Quantizer:
        """The b-bit quantizer of activations whose lattice spans two numbers and contains 0.

        All 2^b integers are used: 0 ... 2^b - 1 where nothing is negative (a Relu is then implied by the
        clipping), shifted down by a zero point otherwise.

        Raises:
            BadInputError: A number is not finite, or they are further apart than float32 can tell.
        """
        check_bits(bits, least=1)
        if not np.isfinite([lowest, highest]).all():
            raise BadInputError("a range is not finite", found=f"from {lowest} to {highest}")
        lowest, highest = min(lowest, 0.0), max(highest, 0.0)
        levels = 2**bits - 1
        with np.errstate(over="ignore"):  # an infinite step is refused below
            step = np.float32((highest - lowest) / levels)
        if step == 0:
            step = np.float32(1)
        zero_point = int(np.clip(np.rint(-lowest / float(step)), 0, levels))
        return cls(np.asarray(step, dtype=np.float32), -zero_point, levels - zero_point)


def divisors(number: int) -> list[int]:
    """The greatest first."""
    return [size for size in range(number, 0, -1) if number % size == 0]


def all_alike(numbers: npt.NDArray[np.intp], size: int) -> bool:
    """Whether each run of `size` numbers, the last one cut short, is one number throughout."""
    first = np.repeat(numbers[::size], size)[: numbers.size]
    return bool((first == numbers).all())


def check_bits(bits: int, least: int) -> None:
    if not least <= bits <= 16:
        raise BadInputError(
            "a quantizer cannot have this many bits", required=f"{least} to 16 bits", found=str(bits)
        )
