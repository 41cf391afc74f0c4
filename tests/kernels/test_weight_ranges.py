"""Ranges of least squared error, and steps that are stored in 8 bits."""

from __future__ import annotations

import numpy as np
import pytest

from getac.kernels.weight_ranges import best_maximum, blocks_of, coarse_steps, factored

F32 = np.float32


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(F32)


def error(weights, maximum, high):
    step = maximum / high
    return np.square(weights - np.clip(np.rint(weights / step), -high, high) * step).sum(axis=0)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_clipping_pays_at_few_bits(bits):
    weights, high = normal(256, 8), 2 ** (bits - 1) - 1
    found = best_maximum(weights, (0,), high)
    greatest = np.abs(weights).max(axis=0, keepdims=True)
    assert found.shape == (1, 8) and (found < greatest).all()
    assert (error(weights, found, high) < 0.9 * error(weights, greatest, high)).all()


def test_what_lies_on_the_lattice_is_not_clipped():
    weights = np.array([[-7.0], [3.0], [1.0], [7.0]], F32)
    assert best_maximum(weights, (0,), 7).item() == 7


def test_zeros_have_the_range_zero():
    assert best_maximum(np.zeros((4, 2), F32), (0,), 7).tolist() == [[0, 0]]


def test_blocks_are_completed_with_zeros():
    weights = normal(5, 3)
    blocks = blocks_of(weights, 0, 2)
    assert blocks.shape == (3, 2, 3)
    np.testing.assert_array_equal(blocks.reshape(6, 3)[:5], weights)
    assert not blocks[2, 1].any()
    assert blocks_of(weights, 1, 2).shape == (5, 2, 2)


@pytest.mark.parametrize("axis", [0, 1])
def test_coarse_steps_are_products(axis):
    steps = np.random.default_rng(1).uniform(0.1, 1, (24, 16)).astype(F32)
    coarse = coarse_steps(steps, axis)
    assert np.abs(coarse / steps - 1).max() < 0.02
    k, unit = factored(coarse, axis)
    assert k.dtype == np.uint8 and unit.shape == ((1, 16) if axis == 0 else (24, 1))
    np.testing.assert_array_equal(k.astype(F32) * unit, coarse)


def test_other_steps_are_no_products():
    assert factored(np.random.default_rng(1).uniform(0.1, 1, (24, 16)).astype(F32), 0) is None
