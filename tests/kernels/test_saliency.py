"""Group reductions against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from getac.kernels.saliency import squares_along, sum_by_unit


@pytest.mark.parametrize("shape", [(5,), (4, 3), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_squares_along_every_dimension(shape, dtype):
    array = np.random.default_rng(0).normal(size=shape).astype(dtype)
    for dimension in range(array.ndim):
        squares = squares_along(array, dimension)
        rest = tuple(i for i in range(array.ndim) if i != dimension)
        assert squares.dtype == np.float64 and squares.shape == (shape[dimension],)
        np.testing.assert_allclose(squares, (array.astype(np.float64) ** 2).sum(axis=rest), rtol=1e-12)


def test_squares_are_added_in_double_precision():
    array = np.full((1, 1 << 20), 0.1, np.float32)
    assert squares_along(array, 0)[0] == pytest.approx((1 << 20) * float(np.float32(0.1)) ** 2, rel=1e-12)
    assert squares_along(np.full((1, 4), 1e30, np.float32), 0)[0] == pytest.approx(4e60, rel=1e-6)


def test_squares_of_a_transposed_view():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(squares_along(array.T, 0), squares_along(array, 1))


def test_sum_by_unit():
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    owner = np.array([0, 2, -1, 2, 0])
    assert sum_by_unit(values, [owner], 4).tolist() == [17.0, 0.0, 10.0, 0.0]


def test_units_that_occur_twice_own_both():
    values = np.array([1.0, 2.0, 4.0, 8.0])
    owners = [np.array([0, 1, -1, -1]), np.array([-1, -1, 0, 1])]
    assert sum_by_unit(values, owners, 2).tolist() == [5.0, 10.0]


def test_no_occurrence_is_nothing():
    assert sum_by_unit(np.ones(3), [], 2).tolist() == [0.0, 0.0]
