"""Biases and steps in integers: every result is the one that floats give, counted out."""

from __future__ import annotations

import numpy as np
import pytest

from getac.kernels.biases import Levels, Reach, is_on_lattice, reach_of, thresholds_of

F32 = np.float32


def results(sums, scale, bias, levels):
    return np.clip(np.rint((sums * scale + bias) / levels.step), levels.low, levels.high)


def fitted_results(sums, scale, fitted, factor, levels):
    """What integers give: units first."""
    steps = scale * fitted.stretch / factor
    return results(sums * factor + fitted.integers[:, None], steps[:, None], 0.0, levels)


@pytest.mark.parametrize("levels", [Levels(7.3, 0, 3), Levels(5.1, -7, 7), Levels(2.9, 0, 15)])
@pytest.mark.parametrize("seed", range(5))
def test_no_result_changes(levels, seed):
    rng = np.random.default_rng(seed)
    scale, bias = rng.uniform(0.5, 2, 6), rng.uniform(-20, 20, 6)
    sums = np.arange(-60, 61)
    thresholds = thresholds_of(bias, scale, Reach(np.full(6, -60), np.full(6, 60)), levels)
    wanted = results(sums, scale[:, None], bias[:, None], levels)
    exact = 0
    for factor in (1, 2, 3, 8, 16, 50, 200):
        fitted = thresholds.fitted(factor)
        units = fitted.moved == 0
        exact += units.sum()
        got = fitted_results(sums, scale, fitted, factor, levels)
        np.testing.assert_array_equal(got[units], wanted[units])
        assert np.abs(fitted.stretch - 1).max() < 0.01
    assert exact >= 24 and units.all()  # the finest steps do for every unit


def test_a_stretched_step_does_where_the_own_one_does_not():
    """A threshold at nearly every sum, and a bias half a step beside them."""
    levels, scale, bias = Levels(1.02, -7, 7), np.array([1.0]), np.array([0.49])
    thresholds = thresholds_of(bias, scale, Reach(np.array([-9]), np.array([9])), levels)
    assert np.isinf(thresholds.stretch(np.zeros(1))) or thresholds.stretch(np.zeros(1)) != 1
    fitted = thresholds.fitted(4)
    assert fitted.moved == 0
    sums = np.arange(-9, 10)
    wanted = results(sums, scale[:, None], bias[:, None], levels)
    np.testing.assert_array_equal(fitted_results(sums, scale, fitted, 4, levels), wanted)


def test_where_none_does_it_says_which_part_of_the_results_moves():
    """Levels 3.1 sums apart, 255 of them: some threshold lies between any two places of a line."""
    levels, reach = Levels(1.0, 0, 255), Reach(np.array([-900]), np.array([900]))
    scale = np.array([1.0 / 3.1])
    bias = np.array([0.45]) * scale
    fitted = thresholds_of(bias, scale, reach, levels).fitted(1)
    assert fitted.integers == [0] and fitted.stretch == [1]
    np.testing.assert_allclose(fitted.moved, 0.45 / 3.1)
    fine = np.linspace(-200, 0, 400001)  # evenly spread: sums of any fraction
    moved = results(fine, 1, 0.45 / 3.1, Levels(1.0, -300, 300)) != results(
        fine, 1, 0, Levels(1.0, -300, 300)
    )
    assert abs(moved.mean() - fitted.moved) < 1e-3


def test_results_out_of_reach_do_not_count():
    levels, scale = Levels(100.0, -7, 7), np.array([1.0])
    reach = Reach(np.array([-10]), np.array([10]))
    fitted = thresholds_of(np.array([0.4]), scale, reach, levels).fitted(1)
    assert (fitted.integers, fitted.stretch, fitted.moved) == ([0], [1], [0])


def test_a_unit_without_weights_gives_what_its_bias_gives():
    """Its only sum is 0: a bias just above a half must not be rounded to one just below."""
    levels, scale = Levels(2.0, 0, 7), np.array([0.7])
    bias = np.array([3.04])  # 1.52 levels; 4 s is 1.4 of them
    reach = Reach(np.array([0]), np.array([0]))
    fitted = thresholds_of(bias, scale, reach, levels).fitted(1)
    assert fitted.moved == 0
    assert fitted_results(np.array([0]), scale, fitted, 1, levels) == 2


def test_a_whole_bias_keeps_the_ties_whatever_the_other_units_have():
    """Steps that are powers of two: an eighth of the sums are ties, which go to even."""
    levels, reach = Levels(8.0, 0, 15), Reach(np.full(3, -60), np.full(3, 60))
    scale, bias = np.ones(3), np.array([3.0, -5.0, 0.3])
    fitted = thresholds_of(bias, scale, reach, levels).fitted(4)
    np.testing.assert_array_equal(fitted.integers[:2], [12, -20])
    assert not fitted.moved.any() and (fitted.stretch[:2] == 1).all()
    sums = np.arange(-60, 61)
    wanted = results(sums, scale[:, None], bias[:, None], levels)
    np.testing.assert_array_equal(fitted_results(sums, scale, fitted, 4, levels), wanted)


@pytest.mark.parametrize("bias", [1.0, -1.0, 1e30])
def test_a_bias_of_more_vanishing_steps_than_int64_holds_keeps_its_sign(bias):
    scale, reach = np.array([1e-38]), Reach(np.array([0]), np.array([0]))
    fitted = thresholds_of(np.array([bias]), scale, reach, Levels(0.1, -7, 7)).fitted(16)
    assert fitted.moved == 0
    np.testing.assert_allclose(fitted.integers * scale * fitted.stretch / 16, bias)


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
