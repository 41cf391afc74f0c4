"""Integer biases that leave every result of an integer layer where a bias in floats puts it.

A unit sums up n = sum of w x over integers, and writes round((s n + b) / s_y) with s = s_x s_w. As n is
whole, many biases give the same results: k + 1 is reached from the whole number m_k on,

    m_k = ceil(((k + 1/2) s_y - b) / s)

and with the bias s b' from the same one if and only if, for all k that can be reached,

    (k + 1/2) s_y / s - m_k  <=  b'  <  (k + 1/2) s_y / s - m_k + 1
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Levels", "Reach", "equal_biases", "is_on_lattice", "reach_of"]

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]

FLOAT_ERROR = 2.0**-21
"""Relative: what float32 makes of a product of two scales and a quotient."""


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


def reach_of(weights: Integers, low: int, high: int) -> Reach:
    """What products with integers from low to high, or with the zeros of a padding, sum up to.

    Args:
        weights: The integers, units first.
    """
    rows = weights.reshape(len(weights), -1).astype(np.int64)
    ends = np.stack([rows * low, rows * high, np.zeros_like(rows)])
    return Reach(ends.min(axis=0).sum(axis=1), ends.max(axis=0).sum(axis=1))


def is_on_lattice(numbers: Floats, scale: Floats) -> bool:
    """Whether numbers are whole multiples of a scale, as exactly as float32 holds them."""
    scaled = numbers.astype(np.float64) / scale
    return bool((np.abs(scaled - np.rint(scaled)) <= FLOAT_ERROR * np.maximum(np.abs(scaled), 1)).all())


def equal_biases(
    bias: Floats, scale: Floats, reach: Reach, levels: Levels, factor: int
) -> npt.NDArray[np.int64] | None:
    """Biases in steps of s / factor that change no result; the nearest ones. None where a unit has none.

    Args:
        bias: b, shape (units,).
        scale: s, likewise.
    """
    wanted = bias.astype(np.float64) / scale
    lowest, highest = bounds(wanted, scale, reach, levels)
    lowest, highest = np.ceil(lowest * factor), np.floor(highest * factor)
    if (lowest > highest).any():
        return None
    return np.clip(np.rint(wanted * factor), lowest, highest).astype(np.int64)


def bounds(wanted: Floats, scale: Floats, reach: Reach, levels: Levels) -> tuple[Floats, Floats]:
    """Between which b' all results are those of b / s, less what float32 may be wrong by."""
    halves = (np.arange(levels.low, levels.high) + 0.5) * levels.step / scale.astype(np.float64)[:, None]
    first = np.ceil(halves - wanted[:, None])
    reached = (first > reach.least[:, None]) & (first <= reach.greatest[:, None])
    slack = FLOAT_ERROR * np.abs(halves)
    lowest = np.where(reached, halves - first + slack, -np.inf).max(axis=1, initial=-np.inf)
    highest = np.where(reached, halves - first + 1 - slack, np.inf).min(axis=1, initial=np.inf)
    return lowest, highest
