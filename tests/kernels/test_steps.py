"""The greatest step of which numbers are multiples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from getac.kernels.steps import common_step, exact_step

F32 = np.float32
STEPS = st.floats(1e-6, 1e3).map(F32)


# Of two multiples that are large and coprime, rounding leaves too little to tell their step.
FEW = st.lists(st.integers(-15, 15), min_size=1, max_size=8)
MANY = st.integers(0, 2**31).map(
    lambda seed: np.random.default_rng(seed).integers(-32767, 32768, 3000).tolist()
)


@given(STEPS, FEW | MANY)
def test_a_step_is_found_with_its_integers(step, integers):
    values = np.asarray(integers, F32) * F32(step)
    found = common_step(values, 65535)
    divisor = np.gcd.reduce(np.abs(integers)) if any(integers) else 0
    assert found == pytest.approx(float(F32(step)) * divisor, rel=1e-6)
    if divisor:
        exact = exact_step(values, found)
        if divisor == 1:
            assert exact is not None
            assert np.array_equal(np.rint(values / found).astype(F32) * exact, values)


@given(STEPS, st.integers(0, 2**31))
def test_rounded_sums_are_on_the_lattice_too(step, seed):
    """x + (q(x) - x), as a straight-through estimator leaves it."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-200 * step, 200 * step, 300).astype(F32)
    q = np.rint(x / F32(step)).clip(-127, 127) * F32(step)
    found = common_step((x + (q - x)).astype(F32), 255)
    assert found == pytest.approx(step, rel=1e-5)


@given(st.integers(0, 2**31))
def test_floats_are_on_no_lattice_of_few_bits(seed):
    assert common_step(np.random.default_rng(seed).normal(size=64).astype(F32), 65535) is None


def test_what_is_zero_has_any_step():
    assert common_step(np.zeros(5, F32), 255) == 0


def test_a_lattice_that_is_finer_than_asked_for_is_none():
    values = np.arange(1, 300, dtype=F32)
    assert common_step(values, 255) is None
    assert common_step(values, 300) == pytest.approx(1)


def test_no_exact_step_where_the_numbers_are_rounded_otherwise():
    values = (np.arange(1, 100, dtype=np.float64) / 3 + 1e-7).astype(F32)
    assert exact_step(values, 1 / 3) is None
