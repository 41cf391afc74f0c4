"""Lattices of computed weights: of one step, of one per channel, of one per block."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from getac.onnx_graph.weight_lattice import weight_lattice

F32 = np.float32
ENDS = [(-8, 7), (-7, 7), (-128, 127), (-127, 127), (0, 15), (0, 255), (0, 100), (-1, 1)]


def integers(rng, ends, shape, rows):
    """Random integers, with both ends and 1 in every row: nothing else says what the lattice is."""
    found = rng.integers(ends[0], ends[1], shape, endpoint=True)
    for index in np.ndindex(*rows):
        found[index][:3] = (*ends, 1)
    return found


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), ends=st.sampled_from(ENDS), axis=st.sampled_from([None, 0, 1]))
def test_steps_and_integers_are_recovered_exactly(seed, ends, axis):
    rng = np.random.default_rng(seed)
    k = integers(rng, ends, (24, 40), (24,))
    shape = {None: (), 0: (24, 1), 1: (40, 1)}[axis]
    steps = rng.uniform(1e-3, 1, shape).astype(F32)
    weight = (k if axis != 1 else integers(rng, ends, (40, 24), (40,))).astype(F32) * steps
    weight = weight.T if axis == 1 else weight
    record = weight_lattice(weight, 16)
    assert (record.low, record.high, record.axis, record.block) == (*ends, axis, None)
    np.testing.assert_array_equal(record.step, steps.reshape(record.step.shape))
    np.testing.assert_array_equal(record.quantize(weight), weight)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    ends=st.sampled_from(ENDS),
    block=st.sampled_from([8, 16, 32]),
    axis=st.sampled_from([0, 1]),
)
def test_blocks_are_recovered_exactly(seed, ends, block, axis):
    rng = np.random.default_rng(seed)
    k = integers(rng, ends, (12, 96 // block, block), (12, 96 // block)).astype(F32)
    steps = rng.uniform(1e-3, 1, (12, 96 // block)).astype(F32)
    weight = (k * steps[..., None]).reshape(12, 96)
    weight, steps = (weight, steps) if axis else (weight.T, steps.T)
    record = weight_lattice(weight, 16)
    assert (record.low, record.high, record.axis, record.block) == (*ends, axis, block)
    np.testing.assert_array_equal(record.step, steps)
    np.testing.assert_array_equal(record.quantize(weight), weight)


def test_blocks_of_zeros_have_the_step_1():
    rng = np.random.default_rng(0)
    k = integers(rng, (-8, 7), (4, 3, 16), (4, 3)).astype(F32)
    k[2, 1] = 0
    steps = rng.uniform(0.1, 1, (4, 3)).astype(F32)
    record = weight_lattice((k * steps[..., None]).reshape(4, 48), 16)
    steps[2, 1] = 1
    np.testing.assert_array_equal(record.step, steps)


def test_numbers_that_the_spelling_rounds_are_within_four_last_places():
    k = integers(np.random.default_rng(0), (-127, 127), (8, 32), (8,)).astype(F32)
    inverse = np.linspace(3, 90, 8, dtype=F32).reshape(8, 1)
    weight = k / inverse
    record = weight_lattice(weight, 16)
    assert (record.low, record.high, record.axis) == (-127, 127, 0)
    np.testing.assert_array_equal(record.integers(weight), k)
    np.testing.assert_allclose(record.quantize(weight), weight, rtol=4 * 2**-23)


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (8, 8, 3, 3), (50,)])
def test_floats_are_on_none(shape):
    assert weight_lattice(np.random.default_rng(0).normal(size=shape).astype(F32), 16) is None


def test_one_number_off_its_lattice_is_enough():
    weight = integers(np.random.default_rng(0), (-8, 7), (16, 64), (16,)).astype(F32) * F32(0.3)
    weight[9, 40] += F32(0.01)
    assert weight_lattice(weight, 4) is None


def test_zeros_have_no_lattice():
    assert weight_lattice(np.zeros((4, 32), F32), 16) is None
