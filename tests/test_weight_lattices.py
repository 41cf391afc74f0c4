"""Steps of a tensor's own for the integers of another's lattice."""

from __future__ import annotations

import numpy as np
import pytest

from getac.quantizer import Quantizer
from getac.weight_lattices import greatest, like, per_block, per_unit

F32 = np.float32
W = np.random.default_rng(0).normal(size=(6, 40)).astype(F32)


def lattice(low, high, axis=None, block=None):
    shape = () if axis is None else (1,) if block is None else (1, 1)
    return Quantizer(np.ones(shape, F32), low, high, axis, block)


def test_symmetric_lattices_are_found_as_for_layers():
    assert like(lattice(-127, 127, 0), W) == per_unit(W, 8, 0)
    assert like(lattice(-7, 7, 1), W) == per_unit(W, 4, 1)
    assert like(lattice(-7, 7, 1, 16), W) == per_block(W, 4, 1, 16)
    assert per_block(W, 4, 1, 16).step.shape == (6, 3)


def test_one_step_for_all():
    found = like(lattice(-127, 127), W)
    assert found.axis is None and found.step == np.abs(W).max() / F32(127)


def test_many_bits_have_the_range_of_the_greatest():
    found = like(lattice(-(2**15) + 1, 2**15 - 1, 0), W)
    np.testing.assert_allclose(found.step, np.abs(W).max(axis=1) / (2**15 - 1), rtol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(-128, 127), (-8, 7), (0, 255), (-3, 12), (-16, 0)])
@pytest.mark.parametrize(("axis", "block"), [(None, None), (0, None), (1, None), (1, 16)])
def test_other_lattices_reach_the_greatest_and_no_further(low, high, axis, block):
    x = np.abs(W) if low == 0 else -np.abs(W) if high == 0 else W
    found = like(lattice(low, high, axis, block), x)
    assert (found.low, found.high, found.axis, found.block) == (low, high, axis, block) and found.fits(
        W.shape
    )
    integers = x / found.steps_for(x.shape)
    assert integers.max() < high + 1e-4 and integers.min() > low - 1e-4  # nothing is clipped
    assert np.abs(found.quantize(x) - x).max() <= found.step.max() / 2 * (1 + 1e-5)


def test_zeros_have_a_step():
    zeros = np.zeros((3, 4), F32)
    for one in (lattice(-127, 127, 0), lattice(-128, 127, 0), lattice(0, 255)):
        assert (like(one, zeros).step == 1).all()
    assert (greatest(lattice(-127, 127, 0), zeros).step == 1).all()


def test_tables_have_the_range_of_each_row():
    found = greatest(lattice(-7, 7, 0), W)
    np.testing.assert_allclose(found.step, np.abs(W).max(axis=1) / 7, rtol=1e-6)
