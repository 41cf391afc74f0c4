"""The quantizer record: its formulas, its exactness, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from getac.errors import BadInputError
from getac.quantizer import Quantizer

F32 = np.float32
NUMBERS = st.floats(-1e6, 1e6, width=32)
STEPS = st.floats(2.0**-20, 2.0**10, width=32)
BITS = st.integers(2, 16)


def array(*numbers):
    return np.array(numbers, F32)


# Formulas


@pytest.mark.parametrize("bits", range(2, 17))
def test_symmetric(bits):
    record = Quantizer.symmetric(np.asarray(1.5, F32), bits)
    high = 2 ** (bits - 1) - 1
    assert (record.low, record.high, record.axis) == (-high, high, None)
    assert record.step == F32(1.5) / F32(high)
    assert record.step.dtype == F32 and record.step.shape == ()
    assert record.bits == bits and record.signed
    assert record.quantize(array(-9, 9)).tolist() == pytest.approx([-1.5, 1.5], rel=1e-6)


def test_symmetric_per_channel():
    record = Quantizer.symmetric(np.array([127.0, 0.0, 254.0]), 8, axis=1)
    assert record.step.tolist() == [1.0, 1.0, 2.0]  # a channel of zeros takes any step
    x = np.tile(array(3.4, 3.4, 3.4), (2, 1))
    assert record.integers(x).tolist() == [[3, 3, 2]] * 2
    assert record.quantize(x).tolist() == [[3.0, 3.0, 4.0]] * 2
    assert record.steps_for((2, 3, 1, 1)).shape == (1, 3, 1, 1)


@pytest.mark.parametrize(
    ("low", "high", "bits", "step", "integers"),
    [
        (0.0, 255.0, 8, 1.0, (0, 255)),
        (10.0, 255.0, 8, 1.0, (0, 255)),
        (-255.0, 0.0, 8, 1.0, (-255, 0)),
        (-255.0, -10.0, 8, 1.0, (-255, 0)),
        (-128.0, 127.0, 8, 1.0, (-128, 127)),
        (-1.0, 14.0, 4, 1.0, (-1, 14)),
        (0.0, 1.0, 1, 1.0, (0, 1)),
        (0.0, 65535.0, 16, 1.0, (0, 65535)),
        (0.0, 0.0, 8, 1.0, (0, 255)),
    ],
)
def test_ranged(low, high, bits, step, integers):
    record = Quantizer.ranged(low, high, bits)
    assert (record.low, record.high) == integers
    assert record.step == step and record.step.dtype == F32
    assert record.bits == bits
    assert record.signed is (integers[0] < 0)


@pytest.mark.parametrize(
    ("low", "high", "bits"),
    [(0, 1, 1), (-1, 0, 1), (-1, 1, 2), (0, 255, 8), (-133, 122, 8), (0, 256, 9), (0, 65535, 16)],
)
def test_bits(low, high, bits):
    assert Quantizer(np.asarray(1, F32), low, high).bits == bits


def test_ties_go_to_even():
    record = Quantizer(np.asarray(2, F32), -100, 100)
    assert record.integers(array(1, 3, 5, -1, -3, -5)).tolist() == [0, 2, 2, 0, -2, -2]


def test_integers_are_clipped():
    record = Quantizer(np.asarray(0.5, F32), -3, 5)
    assert record.integers(array(-9, -1.5, 2.5, 9, np.inf, -np.inf)).tolist() == [-3, -3, 5, 5, 5, -3]
    assert record.integers(array(0)).dtype == np.int32


def test_a_quotient_beyond_float32_is_clipped():
    assert Quantizer(array(1e-30)[0].reshape(()), -7, 7).integers(array(1e30, -1e30)).tolist() == [7, -7]


def test_take_keeps_the_steps_of_the_kept_indices():
    record = Quantizer(array(1, 2, 3), -7, 7, axis=0)
    kept = np.array([True, False, True])
    assert record.take(kept, 0) == Quantizer(array(1, 3), -7, 7, axis=0)
    assert record.take(kept, 1) is record
    whole = Quantizer(np.asarray(1, F32), -7, 7)
    assert whole.take(kept, 0) is whole


def test_records_are_compared_by_value():
    record = Quantizer(array(1, 2), -7, 7, axis=0)
    same = Quantizer(array(1, 2), -7, 7, axis=0)
    assert record == same and hash(record) == hash(same)
    others = [
        Quantizer(array(1, 3), -7, 7, axis=0),
        Quantizer(array(1, 2), -8, 7, axis=0),
        Quantizer(array(1, 2), -7, 8, axis=0),
        Quantizer(array(1, 2), -7, 7, axis=1),
        Quantizer(np.asarray(1, F32), -7, 7),
        "a quantizer",
    ]
    assert all(record != other for other in others)


# Refusals


@pytest.mark.parametrize("step", [0.0, -1.0, np.nan, np.inf])
def test_refuses_a_step_that_is_not_positive(step):
    with pytest.raises(BadInputError, match="not a positive number"):
        Quantizer(np.asarray(step, F32), -7, 7)
    with pytest.raises(BadInputError, match="not a positive number"):
        Quantizer(array(1, step), -7, 7, axis=0)


@pytest.mark.parametrize("maximum", [-1.0, np.nan, np.inf])
def test_symmetric_refuses(maximum):
    with pytest.raises(BadInputError, match="not a positive number"):
        Quantizer.symmetric(array(1, maximum), 8, axis=0)


@pytest.mark.parametrize("bits", [-1, 0, 1, 17, 64])
def test_symmetric_refuses_bits(bits):
    with pytest.raises(BadInputError, match=f"2 to 16 bits(.|\n)*{bits}"):
        Quantizer.symmetric(array(1)[0], bits)


@pytest.mark.parametrize("bits", [-1, 0, 17])
def test_ranged_refuses_bits(bits):
    with pytest.raises(BadInputError, match=f"1 to 16 bits(.|\n)*{bits}"):
        Quantizer.ranged(0.0, 1.0, bits)


@pytest.mark.parametrize("ends", [(np.nan, 1.0), (0.0, np.nan), (-np.inf, 1.0), (0.0, np.inf)])
def test_ranged_refuses_what_is_not_finite(ends):
    with pytest.raises(BadInputError, match="range is not finite"):
        Quantizer.ranged(*ends, 8)


def test_ranged_refuses_a_width_beyond_float32():
    with pytest.raises(BadInputError, match="not a positive number"):
        Quantizer.ranged(-1e300, 1e300, 8)


# Properties


@st.composite
def quantizers(draw):
    low = draw(st.integers(-(2**15), 0))
    high = draw(st.integers(max(low + 1, 0), 2**15))
    return Quantizer(np.asarray(draw(STEPS), F32), low, high)


@given(quantizers(), st.lists(NUMBERS, min_size=1, max_size=20))
def test_quantized_numbers_are_integers_times_the_step_and_stay(record, numbers):
    x = array(*numbers)
    rounded = record.quantize(x)
    integers = record.integers(x)
    assert rounded.dtype == F32
    assert record.low <= integers.min() and integers.max() <= record.high
    np.testing.assert_array_equal(rounded, integers.astype(F32) * record.step)
    np.testing.assert_array_equal(record.integers(rounded), integers)
    np.testing.assert_array_equal(record.quantize(rounded), rounded)


@given(quantizers(), st.floats(0, 1))
def test_inside_the_range_the_error_is_at_most_half_a_step(record, where):
    step = float(record.step)
    x = F32(step * (record.low + where * (record.high - record.low)))
    error = abs(float(record.quantize(x.reshape(1))[0]) - float(x))
    assert error <= step / 2 + 2.0**-22 * abs(float(x))  # a few roundings of float32


@given(NUMBERS, NUMBERS, st.integers(1, 16))
def test_ranged_contains_zero_and_covers_the_range(a, b, bits):
    low, high = min(a, b), max(a, b)
    record = Quantizer.ranged(low, high, bits)
    step = float(record.step)
    assert record.low <= 0 <= record.high
    assert record.high - record.low == 2**bits - 1
    assert record.quantize(array(0)).tolist() == [0.0]
    slack = step / 2 + 2.0**-22 * max(-low, high, 0) + 1e-38
    assert record.low * step <= min(low, 0) + slack
    assert record.high * step >= max(high, 0) - slack


@given(st.lists(st.floats(2.0**-100, 2.0**100, width=32), min_size=1, max_size=8), BITS)
def test_symmetric_reaches_its_maximum(maxima, bits):
    record = Quantizer.symmetric(array(*maxima), bits, axis=0)
    np.testing.assert_allclose(record.quantize(array(*maxima)), array(*maxima), rtol=3e-7)
    np.testing.assert_array_equal(record.integers(-array(*maxima)), np.full(len(maxima), record.low))


# Blocks


def blocked(rows=3, block=2, axis=0):
    steps = np.arange(1, rows * 2 + 1, dtype=F32).reshape((rows, 2) if axis == 0 else (2, rows))
    return Quantizer(steps, -7, 7, axis, block)


def test_a_block_shares_a_step():
    record = blocked()
    assert record.steps_for((5, 2)).tolist() == [[1, 2], [1, 2], [3, 4], [3, 4], [5, 6]]  # the last is short
    assert blocked(axis=1).steps_for((2, 6))[1].tolist() == [4, 4, 5, 5, 6, 6]
    x = np.full((5, 2), 6, F32)
    assert record.integers(x).tolist() == [[6, 3], [6, 3], [2, 2], [2, 2], [1, 1]]
    assert record != Quantizer(record.step, -7, 7, 0, 3) and record == blocked()


@pytest.mark.parametrize(
    ("shape", "fits"), [((5, 2), True), ((6, 2), True), ((7, 2), False), ((6, 3), False)]
)
def test_steps_of_blocks_fit_a_shape(shape, fits):
    assert blocked().fits(shape) is fits
    assert Quantizer(np.asarray(1, F32), -7, 7).fits(shape)


@pytest.mark.parametrize(
    ("kept", "block"),
    [
        ([1, 1, 1, 1, 0, 0], 2),  # a whole block goes
        ([1, 1, 0, 0, 1, 1], 2),
        ([1, 0, 1, 1, 1, 1], 1),  # blocks are cut unevenly
        ([1, 1, 1, 1, 1, 0], 2),  # the last one may be short
    ],
)
def test_what_is_left_of_blocks_keeps_its_steps(kept, block):
    record, kept = blocked(), np.array(kept, bool)
    smaller = record.take(kept, 0)
    assert smaller.block == block and smaller.fits((int(kept.sum()), 2))
    expected = record.steps_for((6, 2))[kept]
    np.testing.assert_array_equal(smaller.steps_for(expected.shape), expected)


def test_other_dimensions_of_blocks_are_cut():
    assert blocked().take(np.array([False, True]), 1).step.tolist() == [[2], [4], [6]]


def test_a_transposed_record_rounds_the_transposed_matrix():
    x = np.random.default_rng(0).normal(size=(6, 2)).astype(F32) * 20
    for record in (blocked(), Quantizer(array(1, 2), -7, 7, axis=1), Quantizer(np.asarray(1, F32), -7, 7)):
        np.testing.assert_array_equal(record.transposed().quantize(x.T), record.quantize(x).T)
