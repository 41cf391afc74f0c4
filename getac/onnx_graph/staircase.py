"""Finds out what a function of one number rounds to, by asking it.

    y = d clip(round(x / d), low, high)

A grid over many orders of magnitude shows the levels that the function has: the greatest step of which all
levels are multiples is d, the least and the greatest level are the range. `getac.onnx_graph.held` asks
whether the function is that quantizer.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from getac.kernels.steps import common_step, exact_step
from getac.quantizer import Quantizer

__all__ = ["GRID", "NOISE", "Function", "Misfit", "fit_levels"]

Floats = npt.NDArray[np.float32]
Function = Callable[[Floats], Floats]

MOST_LEVELS = 2**16
SAMPLES = 2**15 + 1  # of levels that all are multiples of one step, some are enough
STAYS = 64
"""The last factor of x on the grid over which a function has to stay at one level."""
NOISE = 2.0**-22
"""What sums such as x + (q(x) - x) lose of x, of which they should keep nothing."""


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
    left, right = (-settles(on_grid[GRID < 0][::-1]), settles(on_grid[GRID > 0]))
    values = between(2 * left, 2 * right, on_grid, function)
    step = common_step(values, MOST_LEVELS)
    if step == 0:
        raise Misfit("it is zero everywhere")
    if step is None:
        raise Misfit("its levels are not the multiples of one step")
    low, high = (round(float(level) / step) for level in (values.min(), values.max()))
    if not low <= 0 <= high:
        raise Misfit("zero is none of its levels")
    if high - low >= MOST_LEVELS:
        raise Misfit(f"it has more than {MOST_LEVELS} levels")
    d = exact_step(values, step)
    return Quantizer(np.asarray(d if d is not None else step, np.float32), low, high)


def settles(values: Floats) -> float:
    """The least |x| from which a function stays at one level to the end of the grid; 0 where that is zero.

    Every value says that the level is not further away than the noise at its x. Going inwards, the last
    value that agrees with all that are further out is where the level begins.

    Args:
        values: The function on one side of `GRID`, from zero outwards.

    Raises:
        Misfit: It has no last level, or only in the last part of the grid.
    """
    x, y = GRID[GRID > 0].astype(np.float64), values.astype(np.float64)
    least = np.maximum.accumulate((y - x * NOISE)[::-1])[::-1]
    greatest = np.minimum.accumulate((y + x * NOISE)[::-1])[::-1]
    start = int(np.argmax(least <= greatest))
    if x[start] * STAYS > x[-1]:
        raise Misfit("it has no greatest or no least level")
    return float(x[start]) if start or abs(y[0]) > x[0] * NOISE else 0.0


def between(left: float, right: float, on_grid: Floats, function: Function) -> Floats:
    """The values of a function from one number to another, each once."""
    even = function(np.linspace(left, right, SAMPLES, dtype=np.float32))
    return np.unique(np.concatenate([even, on_grid[(left <= GRID) & (right >= GRID)]]))
