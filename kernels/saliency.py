"""Group reductions: one number per unit from the entries that the unit owns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["squares_along", "sum_by_unit"]

Floats = npt.NDArray[np.float64]


def squares_along(array: npt.NDArray[np.floating], dimension: int) -> Floats:
    """The sum of squares of each slice along a dimension: shape (array.shape[dimension],)."""
    rows = np.moveaxis(array, dimension, 0).reshape(array.shape[dimension], -1)
    squares: Floats = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    return squares


def sum_by_unit(values: Floats, owners: Sequence[npt.NDArray[np.int64]], size: int) -> Floats:
    """Adds up what each unit owns along a dimension.

    Args:
        values: One number per index of the dimension.
        owners: For each occurrence of the class, the unit that owns each index, -1 for none.
        size: The number of units.

    Returns:
        One number per unit.
    """
    result = np.zeros(size, dtype=np.float64)
    for owner in owners:
        owned = owner >= 0
        result += np.bincount(owner[owned], weights=values[owned], minlength=size)
    return result
