"""Finds the lattice that numbers lie on: the greatest step of which all of them are multiples.

Euclid's algorithm on floats. What stands for the same multiple of a step differs by its rounding, so that
remainders below a few units in the last place of the largest number count as none.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["ULPS", "common_step", "exact_step"]

Floats = npt.NDArray[np.float64]

ULPS = 4
"""How many units in the last place of float32 a number may be from its multiple."""

REACHES = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
_ULP = 2.0**-23


def common_step(values: npt.ArrayLike, most: int) -> float | None:
    """The greatest step of which all numbers are multiples, up to rounding.

    Args:
        values: Finite numbers of any shape, computed in float32.
        most: The greatest multiple that is looked for.

    Returns:
        The step, fitted to all of the numbers; 0 where all are zero; None where there is none.
    """
    magnitudes = np.unique(np.abs(np.asarray(values, np.float64)))
    magnitudes = magnitudes[magnitudes > 0]
    if not magnitudes.size:
        return 0.0
    largest = float(magnitudes[-1])
    tolerance = ULPS * _ULP * largest
    step = smallest_gap(magnitudes, tolerance)
    while largest / step < most + 0.5:
        fitted = refined(step, magnitudes)
        if (remainders(magnitudes, fitted) <= tolerance).all():
            return fitted
        off = remainders(magnitudes, step)
        left = off[off > tolerance * (1 + magnitudes / step)]  # a step that is off adds up
        if not left.size:
            return None
        step = float(left[0])  # that of the smallest number is the most accurate
    return None


def remainders(magnitudes: Floats, step: float) -> Floats:
    """How far each number is from the nearest multiple of a step."""
    found: Floats = np.abs(magnitudes - step * np.rint(magnitudes / step))
    return found


def refined(step: float, magnitudes: Floats) -> float:
    """The step that fits the numbers best, found from the small multiples outwards.

    A step that is off by one part in a thousand says nothing of which multiple a number is that lies a
    thousand steps away.
    """
    for bound in REACHES:
        near = magnitudes[magnitudes < (bound + 0.5) * step]
        near = near[remainders(near, step) < step / 8]
        multiples = np.rint(near / step)
        if multiples.any():
            step = float(multiples @ near / (multiples @ multiples))
    return step


def smallest_gap(magnitudes: Floats, tolerance: float) -> float:
    """The least difference of two neighbours, zero among them, that is more than rounding."""
    gaps = np.diff(magnitudes, prepend=0.0)
    return float(gaps[gaps > tolerance].min(initial=magnitudes[-1]))


def exact_step(values: npt.ArrayLike, step: float) -> np.float32 | None:
    """The float32 next to a step whose multiples are the numbers to the last bit, None where there is none.

    Args:
        values: Numbers of type float32.
    """
    numbers = np.asarray(values, np.float32)
    multiples = np.rint(numbers.astype(np.float64) / step).astype(np.float32)
    candidate = np.float32(step)
    near = [candidate]
    for direction in (np.float32(0), np.float32(np.inf)):
        one = candidate
        for _ in range(ULPS):
            one = np.nextafter(one, direction)
            near.append(one)
    return next((one for one in near if one > 0 and np.array_equal(multiples * one, numbers)), None)
