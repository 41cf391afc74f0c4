"""Packing of small integers: bit by bit against arithmetic by hand, and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from getac.kernels.packing import (
    bits_needed,
    common_shift,
    digits_per_byte,
    lookup_table,
    pack_digits,
    part_of,
    part_widths,
    unpack_digits,
)

TYPES = (np.int8, np.uint8, np.int16, np.uint16)


@pytest.mark.parametrize(
    ("low", "high", "bits"),
    [
        *[(0, 0, 1), (0, 1, 1), (0, 2, 2), (0, 3, 2), (0, 255, 8), (5, 256, 9)],
        *[(-1, 0, 1), (-1, 1, 2), (-2, 1, 2), (-2, 2, 3), (-7, 7, 4), (-8, 7, 4), (-9, 0, 5), (-1, 8, 5)],
        *[(-128, 127, 8), (-129, 0, 9), (-32768, 32767, 16), (-5, -3, 4)],
    ],
)
def test_bits_needed(low, high, bits):
    assert bits_needed(low, high) == bits


@pytest.mark.parametrize("dtype", TYPES)
@given(data=st.data())
def test_common_shift_is_the_greatest_power_of_two_that_divides(dtype, data):
    integers = data.draw(hnp.arrays(dtype, hnp.array_shapes(max_dims=2, max_side=5)))
    shift = common_shift(integers)
    wide = integers.astype(np.int64)
    assert not (wide % 2**shift).any()
    assert not wide.any() or (wide % 2 ** (shift + 1)).any()


def test_common_shift_of_nothing_and_zeros():
    assert common_shift(np.zeros((0,), np.int8)) == common_shift(np.zeros((2, 2), np.int8)) == 0
    assert common_shift(np.array([-128], np.int8)) == 7
    assert common_shift(np.array([-32768], np.int16)) == 15


@pytest.mark.parametrize("bits", range(1, 16))
def test_widths_add_up(bits):
    widths = part_widths(bits)
    assert sum(widths) == bits and set(widths) <= {8, 4, 2, 1}
    assert list(widths) == sorted(set(widths), reverse=True)


@pytest.mark.parametrize(
    ("dtype", "bits"), [(np.int8, b) for b in range(1, 8)] + [(np.int16, b) for b in range(9, 16)]
)
@given(data=st.data())
def test_parts_add_up_to_the_integers(dtype, bits, data):
    ends = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    integers = data.draw(hnp.arrays(dtype, (7,), elements=st.integers(*ends)))
    total, below = np.zeros(7, np.int64), bits
    for index, width in enumerate(part_widths(bits)):
        below -= width
        part = part_of(integers, below, width if index else None)
        assert part.dtype == dtype and (index == 0 or ((part >= 0).all() and (part < 2**width).all()))
        total += part.astype(np.int64) << below
    assert np.array_equal(total, integers)


def test_the_high_part_has_the_sign():
    integers = np.array([-31, -1, 0, 1, 31], np.int8)
    assert part_of(integers, 2, None).tolist() == [-8, -1, 0, 0, 7]
    assert part_of(integers, 0, 2).tolist() == [1, 3, 0, 1, 3]


@pytest.mark.parametrize(
    ("base", "digits"), [(2, 8), (3, 5), (4, 4), (5, 3), (6, 3), (7, 2), (16, 2), (17, 1), (256, 1)]
)
def test_digits_per_byte(base, digits):
    assert digits_per_byte(base) == digits and base**digits <= 256 < base ** (digits + 1)


def test_the_first_digit_is_the_lowest():
    assert pack_digits(np.array([1, 0, 0, 0, 0, 0, 0, 1]), 2).tolist() == [0b10000001]
    assert pack_digits(np.array([3, 0, 1, 2]), 4).tolist() == [0b10010011]
    assert pack_digits(np.array([2, 1, 0, 0, 2, 1]), 3).tolist() == [2 + 3 + 2 * 81, 1]
    assert pack_digits(np.array([[15, 1], [0, 9]]), 16).tolist() == [0x1F, 0x90]
    assert pack_digits(np.array([200, 3], np.uint8), 256).tolist() == [200, 3]


@pytest.mark.parametrize("base", [2, 3, 4, 5, 6, 16, 256])
@given(data=st.data())
def test_digits_come_back(base, data):
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=9))  # most fill no whole number of bytes
    digits = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, base - 1)))
    packed = pack_digits(digits, base)
    assert packed.dtype == np.uint8
    assert packed.shape == (math.ceil(digits.size / digits_per_byte(base)),)
    table = lookup_table(base, dtype=np.int16)
    assert np.array_equal(unpack_digits(packed, table, shape), digits)
    scaled = lookup_table(base, unit=16, offset=-7, dtype=np.int16)
    assert np.array_equal(unpack_digits(packed, scaled, shape), 16 * digits.astype(np.int16) - 7)


def test_a_table_has_a_row_per_byte():
    table = lookup_table(3, unit=64, offset=-64)
    assert table.shape == (243, 5) and table.dtype == np.int8
    assert table[0].tolist() == [-64] * 5
    assert table[1 + 2 * 3].tolist() == [0, 64, -64, -64, -64]
