"""How a stored tensor of integers is written in fewer bits: the choice, and the nodes that restore it.

    W_int4 -> Cast(INT8) -> Mul(unit)                                  a type of the right width
    bytes -> Cast(INT32) -> Gather(table) -> Reshape                   digits in bytes
    the sum of several of these                                        parts, where no type has the width

onnxruntime folds all of it when it loads the model, before it looks for integer kernels, so that these see
the INT8 tensor of before. OpenVINO takes a Mul of constant integers for a part of a dequantization: it
multiplies at every run, and makes up for zero points in bfloat16. So in a portable model a table holds the
unit, and also what integers that are not around 0 have in common.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np
import onnx_ir as ir

from getac.kernels.packing import bits_needed, common_shift, digits_per_byte, part_of, part_widths
from getac.onnx_graph.edit import Array

__all__ = ["COMPUTED_AS", "Packing", "Part", "Target", "digits_name", "in_four_bits", "packings"]

COMPUTED_AS = {
    **{
        dtype: dtype for dtype in (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16)
    },
    ir.DataType.INT4: ir.DataType.INT8,
    ir.DataType.UINT4: ir.DataType.UINT8,
    ir.DataType.INT32: ir.DataType.INT32,
}
"""The types of tensors that can be packed -> what their arithmetic is done in."""

NATIVE = {
    (16, True): ir.DataType.INT16,
    (8, True): ir.DataType.INT8,
    (8, False): ir.DataType.UINT8,
    (4, True): ir.DataType.INT4,
    (4, False): ir.DataType.UINT4,
    (2, True): ir.DataType.INT2,
    (2, False): ir.DataType.UINT2,
}
MOST_VALUES = 6
"""Digits of up to 6 values go three or more into a byte; of more than that as many as 4 bits."""


class Target(Enum):
    """Who has to load the model, and what it may use for that.

    Attributes:
        PORTABLE: Opset 21; what onnxruntime and OpenVINO both run on integers.
        ORT: onnxruntime; types of 2 bits (opset 25), and arithmetic in place of tables, which take half the
            memory while a model is loaded.
    """

    PORTABLE = "portable"
    ORT = "ort"


@dataclass(frozen=True)
class Part:
    """Some of the bits of an integer, or all of it.

    Args:
        shift: The bit at which the part begins.
        width: Its number of bits; None: all from there on, with the sign.
        least: The smallest number.
        count: How many numbers, beginning with the smallest.
        start: What the smallest stands for, offset included.
        native: The type that they are stored in; None: digits in bytes.
    """

    shift: int
    width: int | None
    least: int
    count: int
    start: int
    native: ir.DataType | None = None

    @property
    def unit(self) -> int:
        return 1 << self.shift

    def numbers(self, integers: Array) -> Array:
        return part_of(integers, self.shift, self.width)

    def nbytes(self, size: int) -> int:
        """Bytes that `size` numbers take."""
        per_byte = 8 / self.native.bitwidth if self.native else digits_per_byte(self.count)
        return int(np.ceil(size / per_byte))

    def __str__(self) -> str:
        """As a report says it."""
        if self.native is not None:
            return str(self.native.name)
        return digits_name(self.count)


def digits_name(base: int) -> str:
    bits = bits_needed(0, base - 1)
    return f"{bits}-bit" if base == 2**bits else {3: "ternary"}.get(base, f"base {base}")


@dataclass(frozen=True)
class Packing:
    """A tensor as offset + the sum of its parts, the highest part first."""

    offset: int
    parts: tuple[Part, ...]

    def nbytes(self, size: int) -> int:
        return sum(part.nbytes(size) for part in self.parts)

    def above_offset(self, integers: Array) -> Array:
        """The integers without the offset; unsigned if there is one."""
        if not self.offset:
            return integers
        unsigned = integers.view(f"u{integers.itemsize}")  # wraps round to the difference
        return np.asarray(unsigned - unsigned.dtype.type(self.offset % 2 ** (8 * integers.itemsize)))

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts))


def packings(integers: Array, target: Target, types: frozenset[ir.DataType]) -> Iterator[Packing]:
    """The ways to store a tensor that may pay, all exact.

    Args:
        types: The types that the model can store.
    """
    low, high = int(integers.min()), int(integers.max())
    if integers.itemsize == 4:
        yield from narrower(bits_needed(low, high))
        return
    shift = common_shift(integers)
    bits, signed = bits_needed(low >> shift, high >> shift), low < 0
    if bits < 8 * integers.itemsize:
        yield Packing(0, tuple(parts_of(bits, shift, signed, 0, target, types)))
    rest = Packing(low, ()).above_offset(integers)
    shift = common_shift(rest)
    count = ((high - low) >> shift) + 1
    if 1 < count <= MOST_VALUES:
        yield Packing(low, (Part(shift, None, 0, count, low),))
    elif count > 1 and bits_needed(0, count - 1) < bits:
        yield Packing(low, tuple(parts_of(bits_needed(0, count - 1), shift, False, low)))


def in_four_bits(integers: Array, target: Target, types: frozenset[ir.DataType]) -> Iterator[Packing]:
    """Fewer bits in a type of four: for weights so few that they do not pay for a table."""
    low, high = int(integers.min()), int(integers.max())
    if integers.itemsize < 4 and bits_needed(low, high) < 4:
        yield Packing(0, tuple(parts_of(4, 0, low < 0, 0, target, types)))


def narrower(bits: int) -> Iterator[Packing]:
    """Biases: few numbers, of which a type of half or a quarter of the bytes may hold all."""
    for width in (8, 16):
        if bits <= width:
            least = -(1 << (width - 1))
            yield Packing(0, (Part(0, None, least, 1 << width, least, NATIVE[width, True]),))


def parts_of(
    bits: int,
    shift: int,
    signed: bool,
    offset: int = 0,
    target: Target = Target.PORTABLE,
    types: frozenset[ir.DataType] = frozenset(),
) -> Iterator[Part]:
    """Integers of some bits, from a bit on, in parts of 8, 4, 2 and 1; the offset goes into the first."""
    widths, below = part_widths(bits), shift + bits
    for index, width in enumerate(widths):
        below -= width
        first = index == 0
        least = -(1 << (width - 1)) if signed and first else 0
        native = NATIVE.get((width, signed and first))
        alone = len(widths) == 1 and below == 0
        usable = native in types and (alone or target is Target.ORT)
        start = (least << below) + (offset if first else 0)
        yield Part(below, None if first else width, least, 1 << width, start, native if usable else None)
