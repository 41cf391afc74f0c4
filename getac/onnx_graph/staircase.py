"""Finds out what a function of one number rounds to, by asking it.

    y = d clip(round(x / d), low, high)

A grid over many orders of magnitude shows the levels that the function has; the greatest step of which all
levels are multiples is d, and the outermost levels are the range. Then the function has to agree with that on
fresh points: random ones, and those around the middle between two levels, where a rounding shows itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from getac.kernels.steps import ULPS, common_step, exact_step
from getac.quantizer import Quantizer

__all__ = ["GRID", "Misfit", "check_staircase", "fit_levels"]

Floats = npt.NDArray[np.float32]
Function = Callable[[Floats], Floats]

MOST_LEVELS = 2**16
SAMPLES = 2**15 + 1  # of levels that all are multiples of one step, some are enough
FRESH = 4096
STAYS = 64
"""Over how large a factor of x a function has to stay at a level for it to be the last one."""
NOISE = 2.0**-22
"""What sums such as x + (q(x) - x) lose of x, of which they should keep nothing."""
TIE = 2.0**-21
"""How near to the middle between two levels a function may choose the other one, in steps and for every level
that it has: x / d + z loses the last bits of small numbers."""


def _grid() -> Floats:
    magnitudes = np.logspace(-8, 8, 8001)
    return np.concatenate([-magnitudes[::-1], [0.0], magnitudes]).astype(np.float32)


GRID: Floats = _grid()


class Misfit(Exception):
    """Why a function is no quantizer."""


def fit_levels(on_grid: Floats, function: Function) -> Quantizer:
    """The lattice that all values of a function are on, wherever its steps are.

    Args:
        on_grid: What the function gives on `GRID`.
        function: Gives its value at each of many points.

    Raises:
        Misfit: There is none, or the function goes on forever.
    """
    if not np.isfinite(on_grid).all():
        raise Misfit("it is not finite everywhere")
    ends = [saturation(on_grid[sign * GRID > 0][::sign], sign) for sign in (-1, 1)]
    values = between(ends, function)
    step = common_step([*(level for _, level in ends), *values], MOST_LEVELS)
    if step == 0:
        raise Misfit("it is zero everywhere")
    if step is None:
        raise Misfit("its levels are not the multiples of one step")
    low, high = (round(level / step) for _, level in ends)
    if not low <= 0 <= high:
        raise Misfit("zero is none of its levels")
    d = exact_step(values, step)
    return Quantizer(np.asarray(d if d is not None else step, np.float32), low, high)


def check_staircase(levels: Quantizer, function: Function, seed: int = 0) -> None:
    """Holds a function to the quantizer of its levels, but for the choice at ties.

    Args:
        levels: From `fit_levels`.
        function: Gives its value at each of many points.

    Raises:
        Misfit: It is another function.
    """
    points = fresh_points(float(levels.step), levels.low, levels.high, seed)
    compare(points, function(points), levels)


def saturation(values: Floats, sign: int) -> tuple[float, float]:
    """Where a function reaches its last level on one side, and that level: (0, 0) where it stays at zero.

    Args:
        values: The function on that side of `GRID`, from zero outwards.

    Raises:
        Misfit: It never stays at a level.
    """
    x = GRID[GRID > 0].astype(np.float64)
    y = np.where(np.abs(values) > x * NOISE, values.astype(np.float64), 0.0)
    if not y.any():
        return 0.0, 0.0
    window = int(np.searchsorted(x, x[0] * STAYS))
    starts = np.flatnonzero(y[: max(y.size - window, 0)])
    last = starts + window - 1
    for start in starts[np.abs(y[last] - y[starts]) <= x[last] * NOISE]:  # most are ruled out by this alone
        later = slice(start, start + window)
        if (np.abs(y[later] - y[start]) <= x[later] * NOISE).all():
            return sign * float(x[start]), float(y[start])
    raise Misfit("it has no greatest or no least level")


def between(ends: list[tuple[float, float]], function: Function) -> Floats:
    """The levels of a function from one end of its range to the other."""
    (left, _), (right, _) = ends
    return np.unique(function(np.linspace(2 * left, 2 * right, SAMPLES, dtype=np.float32)))


def fresh_points(step: float, low: int, high: int, seed: int) -> Floats:
    """Random points in and around the range, and pairs on either side of random middles."""
    rng = np.random.default_rng(seed)
    inside = rng.uniform((low - 2) * step, (high + 2) * step, FRESH)
    middles = (rng.integers(low - 1, high + 1, FRESH) + 0.5) * step
    off = 2 * tie_width(low, high) * step
    return np.concatenate([inside, middles - off, middles + off, [0.0]]).astype(np.float32)


def tie_width(low: int, high: int) -> float:
    return TIE * (high - low + 1)


def compare(points: Floats, values: Floats, record: Quantizer) -> None:
    """Holds a function to a record at all points that are not at a tie."""
    quotient = np.abs(points.astype(np.float64) / float(record.step))
    at_tie = np.abs(quotient - np.floor(quotient) - 0.5) <= tie_width(record.low, record.high)
    expected = record.quantize(points)
    difference = np.abs(values.astype(np.float64) - expected)[~at_tie]
    if not np.isfinite(values).all() or (difference > ULPS * 2.0**-23 * np.abs(expected[~at_tie])).any():
        raise Misfit("its steps are not where rounding to the nearest multiple has them")
