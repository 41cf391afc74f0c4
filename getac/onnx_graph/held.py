"""Holds a function of one number to a record, wherever the two could differ.

The function is compared on the grid that the levels were found on, on outliers up to 1e30, on fresh random
points, around the middle between two levels, and around the numbers that it is made of, where it may change.

NaN is no number to round and not asked for: a Q/DQ pair makes another number of it than a Round does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from getac.kernels.steps import ULPS
from getac.onnx_graph.staircase import GRID, NOISE, Function, Misfit
from getac.quantizer import Quantizer

__all__ = ["OUTLIERS", "Answers", "ask", "check_levels", "check_staircase", "ties_elsewhere"]

Floats = npt.NDArray[np.float32]

FRESH = 4096
TIES = 2048
TIE = 2.0**-21
"""How near to the middle between two levels a function may choose the other one, in steps and for every level
that it has: x / d + z loses the last bits of small numbers."""


def _outliers() -> Floats:
    magnitudes = np.logspace(8, 30, 221)  # beyond, quotients by small steps leave float32
    return np.concatenate([-magnitudes, magnitudes]).astype(np.float32)


OUTLIERS: Floats = _outliers()


@dataclass(frozen=True)
class Answers:
    """What a function gives at points."""

    points: Floats
    values: Floats


def ask(
    function: Function, on_grid: Floats, levels: Quantizer, numbers: npt.ArrayLike = (), seed: int = 0
) -> Answers:
    """Asks a function where it could differ from its levels.

    Args:
        function: Gives its value at each of many points.
        on_grid: What it gives on `GRID`.
        numbers: What the function computes with: its own steps and thresholds.
    """
    points = np.concatenate([OUTLIERS, fresh_points(levels, seed), near(numbers)])
    return Answers(np.concatenate([GRID, points]), np.concatenate([on_grid, function(points)]))


def check_staircase(levels: Quantizer, answers: Answers) -> None:
    """Holds a function to the quantizer of its levels, but for the choice at ties (see `ties_elsewhere`).

    Raises:
        Misfit: It is another function.
    """
    quotient = np.abs(answers.points.astype(np.float64) / float(levels.step))
    at_tie = np.abs(quotient - np.floor(quotient) - 0.5) <= tie_width(levels)
    at_tie &= quotient <= max(-levels.low, levels.high) + 1
    what = "its steps are not where rounding to the nearest multiple has them"
    compare(answers, levels.quantize(answers.points), what, loses_outliers(levels, answers), where=~at_tie)


def check_levels(levels: Quantizer, answers: Answers) -> None:
    """Holds the values of a function to levels: rounding them again changes none.

    Raises:
        Misfit: It changes some, or one is no number, such as the inf - inf of outliers: none to round.
    """
    lost = answers.points[np.isnan(answers.values)]
    if lost.size:
        raise Misfit(f"it is not a number everywhere: not at {lost[0]:.6g}")
    what = "its values are not all on its levels"
    compare(answers, levels.quantize(answers.values), what, loses_outliers(levels, answers))


def loses_outliers(levels: Quantizer, answers: Answers) -> bool:
    """Whether a function gives no level at any number whose last bit is more than the level.

    So do sums such as x + (q(x) - x), which on a grid of powers of two may lose nothing.
    """
    values = answers.values[GRID.size : GRID.size + OUTLIERS.size]
    expected = levels.quantize(OUTLIERS)
    lost = (expected != 0) & (np.abs(OUTLIERS) * np.float32(2.0**-24) > np.abs(expected))
    return bool(lost.any() and (values != expected)[lost].all())


def compare(
    answers: Answers, expected: Floats, what: str, lossy: bool, where: npt.NDArray[np.bool_] | bool = True
) -> None:
    """Up to `ULPS` units in the last place of the result; of a noisy function, up to `NOISE` of x, too.

    A function is noisy if it needs that on the grid already, or loses every outlier.
    """
    off = np.abs(answers.values.astype(np.float64) - expected)
    bound = ULPS * 2.0**-23 * np.abs(expected)
    if lossy or (~(off <= bound) & where)[: GRID.size].any():
        bound = bound + NOISE * np.abs(answers.points)
    wrong = np.flatnonzero(~(off <= bound) & where)  # what is not finite is wrong, too
    if wrong.size:
        x, y, record = (float(array[wrong[0]]) for array in (answers.points, answers.values, expected))
        raise Misfit(f"{what}: at {x:.6g} it is {y:.6g}, and not {record:.6g}")


def ties_elsewhere(levels: Quantizer, function: Function, seed: int = 0) -> float:
    """The share of ties at which a function does not go to the even level as the record does.

    Ties are the numbers x of type float32 with x / d, computed in float32, in the middle between two
    integers. Half of them go elsewhere where a function rounds half up; some do, by the last bit, where it
    multiplies by 1 / d.
    """
    lower = np.arange(levels.low, levels.high)
    if lower.size > TIES:
        lower = np.random.default_rng(seed).choice(lower, TIES, replace=False)
    middles = (lower + 0.5).astype(np.float32)
    points = middles * levels.step
    points = points[points / levels.step == middles]
    if not points.size:
        return 0.0
    off = np.abs(function(points).astype(np.float64) - levels.quantize(points))
    return float(np.mean(off > float(levels.step) / 2))


def fresh_points(levels: Quantizer, seed: int) -> Floats:
    """Random points in and around the range, and pairs on either side of random middles."""
    rng, step = np.random.default_rng(seed), float(levels.step)
    inside = rng.uniform((levels.low - 2) * step, (levels.high + 2) * step, FRESH)
    middles = (rng.integers(levels.low - 1, levels.high + 1, FRESH) + 0.5) * step
    off = 2 * tie_width(levels) * step
    return np.concatenate([inside, middles - off, middles + off, [0.0]]).astype(np.float32)


def near(numbers: npt.ArrayLike) -> Floats:
    """The numbers, their products and quotients, of either sign, and what is next to them."""
    given = np.asarray(numbers, np.float64).reshape(-1)
    given = np.unique(np.abs(given[np.isfinite(given) & (given != 0)]))
    made = [given, 1 / given, np.outer(given, given).reshape(-1), np.divide.outer(given, given).reshape(-1)]
    all_ = np.concatenate(made)
    found = np.unique(all_[(all_ > 1e-30) & (all_ < 1e30)].astype(np.float32))
    beside = [np.nextafter(found, np.float32(end)) for end in (0, np.inf)]
    both = np.concatenate([found, *beside])
    return np.concatenate([-both, both]).astype(np.float32)


def tie_width(levels: Quantizer) -> float:
    return TIE * (levels.high - levels.low + 1)
