"""The range of weights that few integers cover with the least error, and steps that are stored in 8 bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["best_maximum", "blocks_of", "coarse_steps", "factored"]

Floats = npt.NDArray[np.float32]

RATIOS = tuple(np.linspace(1.0, 0.3, 15, dtype=np.float32))  # of the greatest magnitude, from all of it down
GREATEST = 255
TINY = np.finfo(np.float32).tiny


def best_maximum(weights: Floats, axes: tuple[int, ...], high: int) -> Floats:
    """q_m with the least sum of squared errors, among fractions of the greatest magnitude.

        sum (w - d clip(round(w / d), -high, high))^2,  d = q_m / high

    At two to four bits a bell curve loses less by clipping its few outer weights than by coarser steps.

    Args:
        weights: float32, finite.
        axes: The dimensions that share a range.
        high: The greatest integer.

    Returns:
        The shape of `weights`, with size 1 in `axes`.
    """
    greatest = np.abs(weights).max(axis=axes, keepdims=True)
    best, least = greatest, np.full(greatest.shape, np.inf, np.float32)
    for ratio in RATIOS:
        maximum = greatest * ratio
        step = np.maximum(maximum / np.float32(high), TINY)
        integers = np.clip(np.rint(weights / step), -high, high)
        error = np.square(weights - integers * step).sum(axis=axes, keepdims=True)
        best, least = np.where(error < least, maximum, best), np.minimum(error, least)
    return np.asarray(best, np.float32)


def blocks_of(weights: Floats, axis: int, size: int) -> Floats:
    """Weights with `axis` cut into (blocks, size); zeros complete the last block."""
    missing = -weights.shape[axis] % size
    padded = np.pad(weights, [(0, missing if i == axis else 0) for i in range(weights.ndim)])
    return padded.reshape(*weights.shape[:axis], -1, size, *weights.shape[axis + 1 :])


def coarse_steps(steps: Floats, axis: int) -> Floats:
    """The nearest steps of the form k u, with k in 1 ... 255 and one u for all blocks of a unit.

    Args:
        steps: Positive; the blocks lie along `axis`.
    """
    unit = unit_of(steps, axis)
    return np.asarray(np.clip(np.rint(steps / unit), 1, GREATEST) * unit, np.float32)


def factored(steps: Floats, axis: int) -> tuple[npt.NDArray[np.uint8], Floats] | None:
    """k and u whose float32 product is exactly the steps; None if there are none (see `coarse_steps`)."""
    unit = unit_of(steps, axis)
    for candidate in (unit, np.nextafter(unit, np.float32(0)), np.nextafter(unit, np.float32(np.inf))):
        k = np.clip(np.rint(steps / candidate), 1, GREATEST).astype(np.float32)
        unit = np.where((k * candidate == steps).all(axis=axis, keepdims=True), candidate, unit)
    k = np.clip(np.rint(steps / unit), 1, GREATEST)
    exact = bool((k.astype(np.float32) * unit == steps).all())
    return (k.astype(np.uint8), np.asarray(unit, np.float32)) if exact else None


def unit_of(steps: Floats, axis: int) -> Floats:
    """The step that makes the greatest one 255 units."""
    unit = steps.max(axis=axis, keepdims=True) / np.float32(GREATEST)
    return np.asarray(np.maximum(unit, TINY), np.float32)
