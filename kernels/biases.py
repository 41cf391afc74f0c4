"""Integers for the bias and the step of a unit that leave every result where floats put it.

A unit sums up n = sum of w x over integers, and writes round((s n + b) / s_y) with s = s_x s_w. As n is
whole, other biases give the same results, and other steps: k + 1 is reached from the whole number m_k on,

    m_k = ceil(((k + 1/2) s_y - b) / s)

and with the step s r and the bias s r b' from the same one if and only if, for all k that can be reached,

    r (m_k - 1 + b')  <  (k + 1/2) s_y / s  <=  r (m_k + b')

So a straight line has to pass between points. Where b' is one of few numbers it may not, unless it may be a
little steeper or flatter as well, which costs nothing: the weights' step is any number anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Fitted", "Levels", "Reach", "Thresholds", "is_on_lattice", "reach_of", "thresholds_of"]

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]

FLOAT_ERROR = 2.0**-21
"""What float32 makes of a product of two scales and a quotient, relative; how far off a whole bias may be."""

NEARBY = 4
"""How many steps beside the nearest one a bias is sought."""

MOST = 0.01
"""How much larger or smaller a step may become for it; a thousandth is the most that has been seen."""


@dataclass(frozen=True)
class Levels:
    """Of what is written: the step s_y, and the least and the greatest integer."""

    step: float
    low: int
    high: int


@dataclass(frozen=True)
class Reach:
    """The least and the greatest sum of each unit, shape (units,)."""

    least: Integers
    greatest: Integers


@dataclass(frozen=True)
class Fitted:
    """Biases in steps of s r / factor, shape (units,).

    Args:
        integers: b', times the factor; as floats, as INT64 does not hold one that counts vanishing steps.
        stretch: r, 1 where that does.
        moved: Which part of evenly spread results goes to another level: by as much of one the bias is off.
    """

    integers: Floats
    stretch: Floats
    moved: Floats


@dataclass(frozen=True)
class Thresholds:
    """Where the results of each unit change.

    Args:
        wanted: b / s, shape (units,).
        level: s_y / s, likewise.
        halves: (k + 1/2) s_y / s, shape (units, levels - 1).
        first: m_k, or the least sum where all are beyond; likewise. NaN where none is.
        last: m_k - 1, or the greatest sum where none is beyond; NaN where all are.
    """

    wanted: Floats
    level: Floats
    halves: Floats
    first: Floats
    last: Floats

    def fitted(self, factor: int) -> Fitted:
        """Biases that change no result, with the least stretch; where there are none, the nearest ones.

        A bias that is whole stays, without a stretch: it keeps also the ties, which go to even.
        """
        nearest = np.rint(self.wanted * factor)
        whole = np.abs(self.wanted * factor - nearest) <= FLOAT_ERROR
        chosen, least = nearest, np.where(whole, 1, np.inf)
        for away in sorted(range(-NEARBY, NEARBY + 1), key=abs):
            stretch = self.stretch((nearest + away) / factor)
            better = np.abs(stretch - 1) < np.abs(least - 1)
            chosen, least = np.where(better, nearest + away, chosen), np.where(better, stretch, least)
        exact = np.isfinite(least)
        moved = np.where(exact, 0, np.abs(nearest / factor - self.wanted) / self.level)
        return Fitted(chosen, np.where(exact, least, 1), moved)

    def stretch(self, bias: Floats) -> Floats:
        """The r with which these b' change no result: 1, or in the middle of those; inf where none does."""
        lowest, highest = np.full(bias.shape, 1 - MOST), np.full(bias.shape, 1 + MOST)
        beyond, before = self.first + bias[:, None], self.last + bias[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            for sums, sign in ((beyond, 1), (before, -1)):
                ends = self.halves / sums
                lowest = np.maximum(lowest, ends.max(axis=1, where=sign * sums > 0, initial=-np.inf))
                highest = np.minimum(highest, ends.min(axis=1, where=sign * sums < 0, initial=np.inf))
        lowest, highest = lowest + FLOAT_ERROR, highest - FLOAT_ERROR
        never = ((beyond == 0) & (self.halves > 0) | (before == 0) & (self.halves <= 0)).any(axis=1)
        middle = np.where((lowest <= 1) & (highest >= 1), 1, (lowest + highest) / 2)
        return np.where((lowest <= highest) & ~never, middle, np.inf)


def reach_of(weights: Integers, low: int, high: int) -> Reach:
    """What products with integers from low to high, or with the zeros of a padding, sum up to.

    Args:
        weights: The integers, units first.
    """
    rows = weights.reshape(len(weights), -1)
    above = rows.clip(min=0).sum(axis=1, dtype=np.int64)
    below = rows.clip(max=0).sum(axis=1, dtype=np.int64)
    low, high = min(low, 0), max(high, 0)
    return Reach(above * low + below * high, above * high + below * low)


def is_on_lattice(numbers: Floats, scale: Floats) -> bool:
    """Whether numbers are whole multiples of a scale, as exactly as float32 holds them."""
    scaled = numbers.astype(np.float64) / scale
    return bool((np.abs(scaled - np.rint(scaled)) <= FLOAT_ERROR * np.maximum(np.abs(scaled), 1)).all())


def thresholds_of(bias: Floats, scale: Floats, reach: Reach, levels: Levels) -> Thresholds:
    """Where a bias in floats puts the results.

    Args:
        bias: b, shape (units,).
        scale: s, likewise.
    """
    wanted = bias.astype(np.float64) / scale
    level = levels.step / scale.astype(np.float64)
    halves = (np.arange(levels.low, levels.high) + 0.5) * level[:, None]
    m = np.ceil(halves - wanted[:, None])
    least, greatest = reach.least[:, None], reach.greatest[:, None]
    first = np.where(m <= greatest, np.maximum(m, least), np.nan)
    last = np.where(m > least, np.minimum(m - 1, greatest), np.nan)
    return Thresholds(wanted, level, halves, first, last)
