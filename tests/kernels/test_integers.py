"""Integer arithmetic of weights and biases: nothing overflows, nothing vanishes, ties go to even."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from getac.kernels.integers import BIAS_LIMIT, PAIR_LIMIT, bias_integers, floored_steps, spare_bits

F32 = np.float32


def test_steps_that_are_large_enough_stay():
    steps = np.array([0.01, 1.0, 1e-5], F32)
    for bias in (None, np.array([1, -2, 0.5], F32)):
        np.testing.assert_array_equal(floored_steps(steps, bias, 0.02), steps)


def test_a_step_too_small_for_its_bias_grows():
    steps = floored_steps(np.array([1e-12, 1e-12], F32), np.array([1.0, 0.0], F32), 0.02)
    assert steps[0] == pytest.approx(1 / (0.02 * BIAS_LIMIT)) and steps[1] == F32(1e-12)


def test_a_free_step_is_as_fine_as_the_bias_allows():
    """All weights are zero: the bias alone settles the step, to a part in 2^30."""
    bias, input_step = np.array([0.3, -700.0], F32), 1.0
    steps = floored_steps(np.zeros(2, F32), bias, input_step)
    restored = bias_integers(bias, steps) * steps.astype(np.float64)
    np.testing.assert_allclose(restored, bias, rtol=2e-9)


@pytest.mark.parametrize("input_step", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_no_step_vanishes(input_step):
    steps = floored_steps(np.zeros(2, F32), np.array([0.0, 1e-30], F32), input_step)
    product = F32(input_step) * steps
    assert (steps >= np.finfo(F32).tiny).all() and (product >= np.finfo(F32).tiny).all()


@given(
    st.floats(-1e6, 1e6, width=32),
    st.floats(2**-20, 2**10, width=32),
    st.one_of(st.just(0.0), st.floats(2**-100, 1.0, width=32)),
)
def test_every_bias_fits_half_an_accumulator(bias, input_step, step):
    biases = np.array([bias], F32)
    steps = floored_steps(np.array([step], F32), biases, input_step)
    scale = (F32(input_step) * steps).astype(F32)
    integers = bias_integers(biases, scale)
    assert abs(int(integers[0])) <= BIAS_LIMIT + 2**7  # the product is rounded to 24 bits
    error = abs(int(integers[0]) * float(scale[0]) - float(biases[0]))
    assert error <= 0.5 * float(scale[0]) * (1 + 1e-6)


def test_ties_go_to_even():
    scale = np.full(6, 0.5, F32)
    bias = np.array([0.25, 0.75, 1.25, -0.25, -0.75, 0.3], F32)
    assert bias_integers(bias, scale).tolist() == [0, 2, 2, 0, -2, 1]
    assert bias_integers(bias, scale).dtype == np.int32


def test_beyond_int32_is_clipped_and_does_not_wrap():
    assert bias_integers(np.array([1.0, -1.0], F32), np.full(2, 1e-20, F32)).tolist() == [2**31 - 1, -(2**31)]


@pytest.mark.parametrize(
    ("low", "high", "bits"),
    [(-127, 127, 0), (-63, 63, 0), (-31, 31, 1), (-7, 7, 3), (-8, 7, 3), (-1, 1, 6), (0, 0, 6), (0, 255, 0)],
)
def test_a_coarse_lattice_has_bits_to_spare(low: int, high: int, bits: int) -> None:
    assert spare_bits(low, high) == bits


@pytest.mark.parametrize("weight_bits", range(2, 9))
@pytest.mark.parametrize("activation_bits", range(2, 9))
def test_few_bits_are_safe_without_vnni(weight_bits: int, activation_bits: int) -> None:
    """There two products are added in an INT16, which 8-bit weights and activations may not fit."""
    high, activation = 2 ** (weight_bits - 1) - 1, 2**activation_bits - 1
    spread = high * 2 ** spare_bits(-high, high, activation)
    assert spread <= 127
    assert 2 * activation * spread <= PAIR_LIMIT or (weight_bits, activation_bits) == (8, 8)
    assert 4 * activation * spread > PAIR_LIMIT or 2 * spread > 127  # as fine as possible
