"""What functions of one number round to, and whether they are the quantizer of their levels everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from getac.onnx_graph.held import ask, check_levels, check_staircase, ties_elsewhere
from getac.onnx_graph.staircase import GRID, Misfit, fit_levels

F32 = np.float32
D = F32(0.1)


def quantizer(d=D, low=-7, high=7):
    return lambda x: np.clip(np.rint(x / d), low, high) * d


def fitted(function):
    with np.errstate(all="ignore"):
        return fit_levels(function(GRID), function)


def answers(function, levels, numbers=()):
    with np.errstate(all="ignore"):
        return ask(function, function(GRID), levels, numbers)


@settings(max_examples=50, deadline=None)
@given(d=st.floats(1e-3, 4).map(F32), low=st.integers(-3000, 0), high=st.integers(1, 3000))
def test_a_quantizer_is_recovered_exactly(d, low, high):
    function = quantizer(d, low, high)
    levels = fitted(function)
    assert (levels.step, levels.low, levels.high) == (d, low, high)
    found = answers(function, levels)
    check_staircase(levels, found)
    check_levels(levels, found)
    assert ties_elsewhere(levels, function) == 0


ELSEWHERE = {
    "floor": lambda x: np.clip(np.floor(x / D), -7, 7) * D,
    "ceil": lambda x: np.clip(np.ceil(x / D), -7, 7) * D,
    "away from zero": lambda x: np.sign(x) * np.minimum(np.ceil(np.abs(x) / D), 7) * D,
    "toward zero": lambda x: np.clip(np.trunc(x / D), -7, 7) * D,
    "none near zero": lambda x: np.where(np.abs(x) > F32(0.31), quantizer()(x), F32(0)),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_levels_are_whole_where_the_steps_are_elsewhere(name):
    """Just below zero a floor is at -1 over eight orders of magnitude: that is not its last level."""
    function = ELSEWHERE[name]
    levels = fitted(function)
    assert (levels.step, levels.low, levels.high) == (D, -7, 7)
    found = answers(function, levels)
    check_levels(levels, found)
    with pytest.raises(Misfit, match="its steps are not where"):
        check_staircase(levels, found)


@pytest.mark.parametrize("beyond", [60.0, 300.0, 1e6, 1e9, 1e20])
@pytest.mark.parametrize("what", [lambda x: x, lambda x: np.zeros_like(x), lambda x: x * F32(np.nan)])
def test_what_differs_for_outliers_is_another_function(beyond, what):
    def function(x):
        return np.where(np.abs(x) > F32(beyond), what(x), quantizer()(x))

    with np.errstate(all="ignore"), pytest.raises(Misfit):
        levels = fitted(function)
        check_staircase(levels, answers(function, levels))


def test_levels_hold_for_outliers_too():
    def function(x):
        return np.where(np.abs(x) > F32(1e9), D / 2, quantizer()(x))

    levels = fitted(function)
    with pytest.raises(Misfit, match=r"its values are not all on its levels: at -1.*e\+09 it is 0.05"):
        check_levels(levels, answers(function, levels))


@pytest.mark.filterwarnings("error")
def test_what_is_no_number_for_outliers_is_on_no_level():
    """x * x leaves float32, and inf - inf is no number: none to round, and nothing to warn of."""

    def function(x):
        with np.errstate(all="ignore"):
            return quantizer()(x) + (x * x - x * x)

    levels = fitted(function)
    with pytest.raises(Misfit, match=r"it is not a number everywhere: not at -.*e\+"):
        check_levels(levels, ask(function, function(GRID), levels))


def test_the_numbers_that_a_function_is_made_of_are_looked_at():
    """A step of one part in 30000 is not among thousands of random points."""
    d, left, right = F32(0.001), F32(3.0003), F32(3.0004)

    def function(x):
        return quantizer(d, -32767, 32767)(x) + d * ((x > left) & (x < right))

    levels = fitted(function)
    with pytest.raises(Misfit, match=r"at 3\.000"):
        check_staircase(levels, answers(function, levels, [d, left, right]))


def test_the_noise_of_a_straight_through_sum_is_none_of_its_values():
    def function(x):
        return x + (quantizer()(x) - x)

    levels = fitted(function)
    assert (levels.low, levels.high) == (-7, 7)
    assert abs(float(levels.step / D) - 1) <= 2**-22  # the sum rounds
    found = answers(function, levels)
    check_staircase(levels, found)
    check_levels(levels, found)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: np.rint(x), "no greatest or no least level"),
        (lambda x: np.maximum(np.rint(x), 0), "no greatest or no least level"),
        (lambda x: np.clip(x, -1, 1), "not the multiples of one step"),
        (lambda x: np.zeros_like(x), "zero everywhere"),
        (lambda x: np.clip(np.rint(x), 3, 9), "zero is none of its levels"),
        (lambda x: np.clip(np.rint(x), -60000, 60000), "more than 65536 levels"),
        (lambda x: np.where(x > 5, F32(np.inf), np.rint(np.minimum(x, 5))), "not finite"),
    ],
)
def test_what_has_no_levels(function, reason):
    with pytest.raises(Misfit, match=reason):
        fitted(lambda x: function(x).astype(F32))


@pytest.mark.parametrize(
    ("rounding", "share"),
    [
        (np.rint, 0),
        (lambda q: np.floor(q + F32(0.5)), 0.5),
        (lambda q: np.ceil(q - F32(0.5)), 0.5),
        (lambda q: np.sign(q) * np.floor(np.abs(q) + F32(0.5)), 0.5),
        (lambda q: np.rint(q + F32(7)) - F32(7), 1),  # an odd zero point
        (lambda q: np.rint(q + F32(8)) - F32(8), 0),
    ],
)
@pytest.mark.parametrize("d", [F32(0.5), F32(0.25)])  # with which nothing else rounds
def test_ties(rounding, share, d):
    def function(x):
        return np.clip(rounding(x / d), -8, 8) * d

    levels = fitted(function)
    check_staircase(levels, answers(function, levels))
    assert ties_elsewhere(levels, function) == share


@settings(max_examples=30, deadline=None)
@given(d=st.floats(1e-3, 4).map(F32), high=st.integers(30, 300))
def test_the_last_bit_of_a_product_takes_few_ties_elsewhere(d, high):
    inverse = F32(1) / d

    def function(x):
        return np.clip(np.rint(x * inverse), -high, high) * d

    assert ties_elsewhere(fitted(function), function) < 0.45
