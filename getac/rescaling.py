"""Weights on a lattice, times a number per output unit: the integers stay, the steps take the numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from getac.quantizer import Quantizer

__all__ = ["Unscalable", "rescaled"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Steps = npt.NDArray[np.float32]


class Unscalable(Exception):
    """Why a product has no record."""


def rescaled(
    weight: Array, record: Quantizer, factors: Floats, axes: tuple[int, ...]
) -> tuple[Array, Quantizer]:
    """s W for W = d k: the weight (d |s|) (k sgn s), and its record.

    Where a step vanishes (s = 0, or too small for float32), the step is 1 and the integers are 0.

    Args:
        weight: W, floats of any type.
        record: How W is rounded.
        factors: s, finite; shaped to broadcast against W.
        axes: The dimensions that may have a step per index, the first choice first.

    Raises:
        Unscalable: No single axis carries the steps, a flipped integer is outside the lattice, or the type
            of the weight cannot tell the integers apart.
    """
    with np.errstate(over="ignore", under="ignore"):
        steps = (np.abs(factors) * record.steps_for(weight.shape).astype(np.float64)).astype(np.float32)
    if not np.isfinite(steps).all():
        raise Unscalable("its steps would not be finite")
    integers = record.integers(weight.astype(np.float32)) * np.sign(factors).astype(np.int32)
    integers = np.where(steps == 0, np.int32(0), integers)
    if integers.min(initial=0) < record.low or integers.max(initial=0) > record.high:
        raise Unscalable(
            f"a negative scale flips its integers, and its lattice is not symmetric: {record.low} to"
            f" {record.high}"
        )
    step, axis = along_one(np.where(steps == 0, np.float32(1), steps), weight.shape, axes)
    new = replace(record, step=step, axis=axis)
    with np.errstate(over="ignore", under="ignore"):
        product = (integers.astype(np.float32) * new.steps_for(weight.shape)).astype(weight.dtype)
        if not np.array_equal(new.integers(product.astype(np.float32)), integers):
            raise Unscalable(f"{weight.dtype} cannot hold its integers times their new steps")
    return product, new


def along_one(steps: Steps, shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[Steps, int]:
    """The step and the axis of a record, from steps that are equal along all other dimensions."""
    for axis in axes:
        others = tuple(i for i in range(steps.ndim) if i != axis)
        least, greatest = steps.min(axis=others), steps.max(axis=others)
        if np.array_equal(least, greatest):
            return np.broadcast_to(least, (shape[axis],)).copy(), axis
    raise Unscalable("its steps would differ along two dimensions, or along its input units")
