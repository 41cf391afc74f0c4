"""Biases in integers: every result is the one that a bias in floats gives, counted out."""

from __future__ import annotations

import numpy as np
import pytest

from getac.kernels.biases import Levels, Reach, equal_biases, is_on_lattice, reach_of

F32 = np.float32


def results(sums, scale, bias, levels):
    return np.clip(np.rint((sums * scale + bias) / levels.step), levels.low, levels.high)


@pytest.mark.parametrize("levels", [Levels(7.3, 0, 3), Levels(5.1, -7, 7), Levels(2.9, 0, 15)])
@pytest.mark.parametrize("seed", range(5))
def test_no_result_changes(levels, seed):
    rng = np.random.default_rng(seed)
    scale, bias = rng.uniform(0.5, 2, 6), rng.uniform(-20, 20, 6)
    reach = Reach(np.full(6, -60), np.full(6, 60))
    sums = np.arange(-60, 61)
    factors = [f for f in range(1, 200) if equal_biases(bias, scale, reach, levels, f) is not None]
    assert factors
    for factor in factors[:: max(len(factors) // 8, 1)]:
        integers = equal_biases(bias, scale, reach, levels, factor)
        for unit in range(6):
            wanted = results(sums, scale[unit], bias[unit], levels)
            got = results(sums * factor + integers[unit], scale[unit] / factor, 0.0, levels)
            np.testing.assert_array_equal(got, wanted)


def test_a_bias_that_no_whole_number_stands_for_is_refused():
    """Levels 3.1 sums apart: some threshold lies between any two places where the bias could stand."""
    levels, reach = Levels(1.0, 0, 255), Reach(np.array([-300]), np.array([300]))
    scale = np.array([1.0 / 3.1])
    assert equal_biases(np.array([0.45 * scale[0]]), scale, reach, levels, 1) is None


def test_results_out_of_reach_do_not_count():
    levels, scale = Levels(100.0, -7, 7), np.array([1.0])
    reach = Reach(np.array([-10]), np.array([10]))
    assert equal_biases(np.array([0.4]), scale, reach, levels, 1) == [0]


def test_sums_reach_as_far_as_products_and_padding_do():
    reach = reach_of(np.array([[[2, -1]], [[3, 3]]]), -4, 7)
    assert reach.least.tolist() == [-15, -24] and reach.greatest.tolist() == [18, 42]
    above = reach_of(np.array([[2]]), 1, 7)  # a padding is 0, although the input is not
    assert (above.least, above.greatest) == ([0], [14])


def test_what_float32_makes_of_whole_multiples_is_on_the_lattice():
    scale = np.array([0.1, 0.003], F32)
    numbers = (np.array([12345, -7]) * scale).astype(F32)
    assert is_on_lattice(numbers, scale) and is_on_lattice(np.zeros(2, F32), scale)
    assert not is_on_lattice(numbers + F32(0.01) * scale, scale)
