"""Finds the lattice of a computed weight: one step for the tensor, or one per index of a dimension."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from getac.kernels.steps import common_step, exact_step
from getac.quantizer import Quantizer

__all__ = ["weight_lattice"]

SAMPLE = 64
KERNEL_BITS, STEP_BITS = 8, 32


def weight_lattice(weight: npt.NDArray[np.float32], bits: int) -> Quantizer | None:
    """The record whose lattice a weight lies on.

    The numbers are at most `kernels.steps.ULPS` units in the last place from their multiples. Of
    several lattices the one counts with which the weight takes the fewest bits, steps included, of those that
    an integer kernel takes.

    Args:
        bits: How many a record may have at most.

    Returns:
        None where the weight is on no lattice of so few bits, or all zero.
    """
    best: Quantizer | None = None
    for axis in (None, *range(weight.ndim)):
        rows = weight.reshape(1, -1) if axis is None else np.moveaxis(weight, axis, 0)
        steps = row_steps(rows.reshape(rows.shape[0], -1), bits)
        if steps is None:
            continue
        record = record_of(weight, steps if axis is not None else steps.reshape(()), axis)
        if best is None or length(record, weight.size) < length(best, weight.size):
            best = record
    return best


def length(record: Quantizer, size: int) -> tuple[bool, int]:
    """Whether kernels have no such integers, and the bits of a weight with its steps."""
    return record.bits > KERNEL_BITS, size * record.bits + record.step.size * STEP_BITS


def row_steps(rows: npt.NDArray[np.float32], bits: int) -> npt.NDArray[np.float32] | None:
    """A step for every row; those without any number but zero get 1."""
    most, steps = 2**bits - 1, np.ones(len(rows), np.float32)
    if not rows.any() or rows.shape[1] < 2:
        return None
    for index, row in enumerate(rows):
        if common_step(row[:SAMPLE], most) is None:
            return None  # what floats are is seen from a few
        step = common_step(row, most)
        if step is None or np.ptp(np.rint([row.min() / step, row.max() / step]) if step else 0) > most:
            return None
        if step:
            exact = exact_step(row, step)
            steps[index] = step if exact is None else exact
    return steps


def record_of(weight: npt.NDArray[np.float32], steps: npt.NDArray[np.float32], axis: int | None) -> Quantizer:
    """The lattice from the least to the greatest multiple that occurs.

    A signed one is symmetric, or has one more below where that is a power of two: all integers of a type.
    """
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    multiples = np.rint(weight / (steps.reshape(shape) if axis is not None else steps))
    least, top = int(multiples.min()), max(int(multiples.max()), 1)
    if least >= 0:
        return Quantizer(steps, 0, top, axis)
    if top < -least and -least & (-least - 1) == 0 and least < -1:
        return Quantizer(steps, least, -least - 1, axis)
    top = max(top, -least)
    return Quantizer(steps, -top, top, axis)
