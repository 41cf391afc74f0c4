"""Finds the lattice of a computed weight: one step, or one per index of a dimension, or per block of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from getac.kernels.steps import ULPS, common_step, exact_step
from getac.quantizer import Quantizer

__all__ = ["weight_lattice"]

Floats = npt.NDArray[np.float32]

SAMPLE = 64
KERNEL_BITS, STEP_BITS = 8, 32
SMALLEST_BLOCK = 8
"""Of fewer numbers it is too often by chance that they are on a lattice."""
_ULP = 2.0**-23


def weight_lattice(weight: Floats, bits: int) -> Quantizer | None:
    """The record whose lattice a weight lies on.

    The numbers are at most `kernels.steps.ULPS` units in the last place from their multiples. Of
    several lattices the one counts with which the weight takes the fewest bits, steps included, of those that
    an integer kernel takes. Blocks are looked for where nothing else is such a lattice.

    Args:
        bits: How many a record may have at most.

    Returns:
        None where the weight is on no lattice of so few bits, or all zero.
    """
    whole = best_of(whole_lattices(weight, bits), weight.size)
    if whole is not None and whole.bits <= KERNEL_BITS:
        return whole
    blocked = best_of(blocked_lattices(weight, min(bits, KERNEL_BITS)), weight.size)
    return blocked or whole


def best_of(records: Iterator[Quantizer], size: int) -> Quantizer | None:
    return min(records, key=lambda record: length(record, size), default=None)


def length(record: Quantizer, size: int) -> tuple[bool, int]:
    """Whether kernels have no such integers, and the bits of a weight with its steps."""
    return record.bits > KERNEL_BITS, size * record.bits + record.step.size * STEP_BITS


def whole_lattices(weight: Floats, bits: int) -> Iterator[Quantizer]:
    """Of one step, or one per index of a dimension."""
    for axis in (None, *range(weight.ndim)):
        rows = weight.reshape(1, -1) if axis is None else np.moveaxis(weight, axis, 0)
        steps = row_steps(rows.reshape(rows.shape[0], -1), 2**bits - 1)
        if steps is not None:
            yield record_of(weight, steps if axis is not None else steps.reshape(()), axis)


def blocked_lattices(weight: Floats, bits: int) -> Iterator[Quantizer]:
    """Of each dimension the one with the largest blocks, which divide it."""
    for axis in range(weight.ndim if weight.ndim > 1 else 0):
        last = np.moveaxis(weight, axis, -1)
        for block in block_sizes(weight.shape[axis]):
            steps = row_steps(last.reshape(-1, block), 2**bits - 1)
            if steps is not None:
                shape = (*last.shape[:-1], last.shape[-1] // block)
                yield record_of(weight, np.moveaxis(steps.reshape(shape), -1, axis), axis, block)
                break


def block_sizes(size: int) -> list[int]:
    """What divides a size, the greatest first."""
    return [block for block in range(size, SMALLEST_BLOCK - 1, -1) if size % block == 0]


def row_steps(rows: Floats, most: int) -> Floats | None:
    """A step for every row, of which its numbers are at most `most` apart; rows of zeros alone get 1."""
    if not rows.any() or rows.shape[1] < 2:
        return None
    if any(common_step(row[:SAMPLE], most) is None for row in rows[:SAMPLE]):
        return None  # what floats are is seen from a few
    steps = likely_steps(rows, most)
    for index in np.flatnonzero(np.isnan(steps)):
        step = common_step(rows[index], most)
        if step is None or not fits(rows[index], step, most):
            return None
        exact = exact_step(rows[index], step)
        steps[index] = step if exact is None else exact
    return steps


def fits(row: Floats, step: float, most: int) -> bool:
    return bool(np.ptp(np.rint([row.min() / step, row.max() / step])) <= most)


def likely_steps(rows: Floats, most: int) -> Floats:
    """The steps of rows whose least gap is one step, to the last bit; NaN for others; 1 for zeros alone."""
    magnitudes, zero = np.sort(np.abs(rows), axis=1), ~rows.any(axis=1)
    gaps = np.diff(magnitudes, axis=1, prepend=np.float32(0)).astype(np.float64)
    noise = ULPS * _ULP * magnitudes[:, -1:]
    gap = np.where(gaps > noise, gaps, np.inf).min(axis=1, keepdims=True)
    gap[np.isinf(gap)] = 1
    multiples = np.rint(rows / gap)
    steps = np.where(zero, 1, np.nan).astype(np.float32)
    fair = ~zero & (np.ptp(multiples, axis=1) <= most)
    fair &= (np.abs(rows - multiples * gap) <= noise * (1 + np.abs(multiples))).all(axis=1)
    multiples, rows = multiples[fair], rows[fair]
    fitted = ((multiples * rows).sum(axis=1) / (multiples * multiples).sum(axis=1)).astype(np.float32)
    steps[fair] = exact_steps(rows, multiples.astype(np.float32), fitted)
    return steps


def exact_steps(rows: Floats, multiples: Floats, fitted: Floats) -> Floats:
    """The float32 next to each step whose multiples are a row to the last bit, NaN where there is none."""
    exact = np.full(fitted.shape, np.nan, np.float32)
    lower = upper = fitted
    for _ in range(ULPS + 1):
        for steps in (upper, lower):
            same = (multiples * steps[:, None] == rows).all(axis=1)
            exact = np.where(np.isnan(exact) & same, steps, exact)
        lower, upper = np.nextafter(lower, np.float32(0)), np.nextafter(upper, np.float32(np.inf))
    return exact


def record_of(weight: Floats, steps: Floats, axis: int | None, block: int | None = None) -> Quantizer:
    """The lattice from the least to the greatest multiple that occurs.

    A signed one is symmetric, or has one more below where that is a power of two: all integers of a type.
    """
    bare = Quantizer(steps, 0, 1, axis, block)
    multiples = np.rint(weight / bare.steps_for(weight.shape))
    least, top = int(multiples.min()), max(int(multiples.max()), 1)
    if least >= 0:
        low, high = 0, top
    elif top < -least and -least & (-least - 1) == 0 and least < -1:
        low, high = least, -least - 1
    else:
        high = max(top, -least)
        low = -high
    return Quantizer(steps, low, high, axis, block)
