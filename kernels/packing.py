"""Small integers in few bits: what is stored, and how it is restored, bit by bit.

    v = offset + 2^m w             m: the common power of two
    w = 2^k high + low             parts of 8, 4, 2 or 1 bits, whose widths add up to those of w
    byte = d_0 + d_1 B + d_2 B^2 ...            digits of base B, as many as fit: 8 bits, 5 trits, 2 of 4 bits

Bytes are restored by a table with a row per byte. A lookup is exact wherever it runs, and takes a byte or two
of memory per integer; shifts and masks take eight, and some runtimes get them wrong.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "bits_needed",
    "common_shift",
    "digits_per_byte",
    "lookup_table",
    "pack_digits",
    "part_of",
    "part_widths",
    "unpack_digits",
]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

WIDTHS = (8, 4, 2, 1)


def bits_needed(low: int, high: int) -> int:
    """The least b for which all of low ... high are b-bit integers: of two's complement if low < 0.

    At least 1.
    """
    if low >= 0:
        return max(high.bit_length(), 1)
    return max((~low).bit_length(), high.bit_length() if high >= 0 else 0) + 1


def common_shift(integers: Array) -> int:
    """The greatest m for which 2^m divides all the integers; 0 if they are all 0.

    Two's complement has the trailing zeros of the absolute value, so that the bits can be taken together.
    """
    bits = int(np.bitwise_or.reduce(integers, axis=None)) if integers.size else 0
    return (bits & -bits).bit_length() - 1 if bits else 0


def part_widths(bits: int) -> tuple[int, ...]:
    """Widths of parts that add up to 1 to 15 bits, the highest part first: 7 = 4 + 2 + 1."""
    return tuple(width for width in WIDTHS if bits & width)


def part_of(integers: Array, shift: int, width: int | None) -> Array:
    """The bits from `shift` on, as integers of the same type.

    Args:
        width: How many; None: the highest part, with the sign.
    """
    moved = integers >> integers.dtype.type(shift)
    return moved if width is None else np.asarray(moved & integers.dtype.type(2**width - 1))


def digits_per_byte(base: int) -> int:
    """The greatest n for which base^n <= 256, for a base of 2 to 256."""
    return next(n for n in range(8, 0, -1) if base**n <= 256)


def pack_digits(digits: Array, base: int) -> Bytes:
    """Digits of 0 to base - 1 in row-major order, the first one of a byte in its lowest place.

    Args:
        digits: Any shape, an integer type.

    Returns:
        Shape (ceil(size / n),) for n digits per byte; zeros fill the last byte.
    """
    flat, places = digits.reshape(-1), digits_per_byte(base)
    packed = np.zeros(math.ceil(flat.size / places), np.uint8)
    for place in range(places):  # column by column: no wider copy of a big tensor
        column = flat[place::places].astype(np.uint8)
        packed[: column.size] += column * np.uint8(base**place)
    return packed


def lookup_table(base: int, unit: int = 1, offset: int = 0, dtype: npt.DTypeLike = np.int8) -> Array:
    """What each byte stands for: row r has unit d + offset for the digits d of r.

    Returns:
        Shape (base^n, n) for n digits per byte.
    """
    places = digits_per_byte(base)
    powers = base ** np.arange(places)
    digits = np.arange(base**places)[:, None] // powers % base
    return (unit * digits + offset).astype(dtype)


def unpack_digits(packed: Bytes, table: Array, shape: tuple[int, ...]) -> Array:
    """The integers that bytes stand for: a row of the table each, without what fills the last one."""
    return np.asarray(table[packed].reshape(-1)[: math.prod(shape)].reshape(shape))
