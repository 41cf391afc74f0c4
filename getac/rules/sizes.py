"""Arithmetic on sizes, as exporters write it: `Shape, Gather, Mul, Concat, Reshape`, or `C // groups`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from getac.axes.axis import Axis, factors, product, resolve, total
from getac.axes.contents import Contents, Entry, Fixed, Literal, SizeOf, Unknown
from getac.axes.reasons import SIZE_AS_NUMBER, SIZE_LIST
from getac.rules.base import Axes, AxisContext, Rule
from getac.rules.elementwise import Elementwise, Select

__all__ = ["SizeArithmetic", "SizeComparison", "SizeProduct", "SizeSelect", "TotalSize"]


def factor(c: AxisContext, entry: Entry) -> Axis:
    """The axis that a positive entry is the size of: of a literal, a fresh one."""
    if isinstance(entry, SizeOf):
        return entry.axis
    assert isinstance(entry, Literal)
    axis = c.atom(entry.value, "factor")
    c.size_sites((entry,), (axis,))
    return axis


def is_positive(entry: Entry) -> bool:
    """Whether an entry is a size, or may be one."""
    return isinstance(entry, SizeOf) or (isinstance(entry, Literal) and entry.value > 0)


def value_of(entry: Entry) -> int | None:
    """The number that an entry is and stays, once it is pinned."""
    return entry.value if isinstance(entry, Literal | Fixed) else None


def pinned(c: AxisContext, *entries: Entry) -> Entry:
    """Keeps the sizes that go into arithmetic that nobody follows."""
    for entry in entries:
        c.pin(entry, SIZE_AS_NUMBER)
    return Unknown()


def multiplied(c: AxisContext, left: Entry, right: Entry) -> Entry:
    a, b = value_of(left), value_of(right)
    if a is not None and b is not None and min(a, b) <= 0:
        pinned(c, left, right)
        return Fixed(a * b)
    if not (is_positive(left) and is_positive(right)):
        return pinned(c, left, right)
    # A literal stands outermost, so that 2 x H can be H + H. Elsewhere the order of factors does not matter.
    ordered = (right, left) if isinstance(right, Literal) else (left, right)
    return SizeOf(product(*(factor(c, entry) for entry in ordered)))


def added(c: AxisContext, left: Entry, right: Entry) -> Entry:
    if not (is_positive(left) and is_positive(right)):
        return pinned(c, left, right)
    return SizeOf(total(factor(c, left), factor(c, right)))


def divided(c: AxisContext, left: Entry, right: Entry) -> Entry:
    """Whole division; by a literal, it says that the size is a product with the literal as a factor."""
    if not isinstance(left, SizeOf):
        return pinned(c, left, right)
    if isinstance(right, SizeOf):
        rest = without(left.axis, right.axis)
        return SizeOf(rest) if rest is not None else pinned(c, left, right)
    if not isinstance(right, Literal) or not is_positive(right) or left.axis.size % right.value:
        return pinned(c, left, right)
    divisor = factor(c, right)
    rest = c.atom(left.axis.size // right.value, "quotient")
    inner = is_innermost(left.axis, right.value)
    c.same(left.axis, product(rest, divisor) if inner else product(divisor, rest))
    return SizeOf(rest)


def is_innermost(axis: Axis, size: int) -> bool:
    """Whether a part of this size is known to stand last; otherwise it is taken to be outermost.

    Both are true to the division. Heads, groups and parts stand first in every layout that we know of.
    """
    sizes = [part.size for part in factors([axis])]
    prefixes = {math.prod(sizes[:i]) for i in range(len(sizes) + 1)}
    suffixes = {math.prod(sizes[i:]) for i in range(len(sizes) + 1)}
    return size in suffixes and size not in prefixes


def without(axis: Axis, divisor: Axis) -> Axis | None:
    """The product without some of its factors, in any order; None where they are not among them."""
    rest = factors([axis])
    for part in factors([divisor]):
        position = next((i for i, other in enumerate(rest) if resolve(other) is resolve(part)), None)
        if position is None:
            return None
        del rest[position]
    return product(*rest)


@dataclass(frozen=True)
class SizeArithmetic(Elementwise):
    """Mul, Add or Div of integers of rank 0 or 1, among which sizes are followed; any other pins them.

    Inputs: two lists of entries, of which one may be a single entry. ONNX Mul, Add, Div, Sub on integers;
    `operator.mul`, `add` and `floordiv` on symbolic sizes.

    Args:
        operation: "mul", "add", "div", or anything else.
    """

    operation: str = "mul"

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        left, right = c.contents(0), c.contents(1)
        if left is not None or right is not None:
            c.set_contents(self._entries(c, left, right))
        return super().axes(c)

    def _entries(self, c: AxisContext, left: Contents | None, right: Contents | None) -> Contents:
        count = math.prod(c.sizes())
        steps = {"mul": multiplied, "add": added, "div": divided}
        step = steps.get(self.operation, pinned)
        pairs = zip(stretched(left, count), stretched(right, count), strict=True)
        return tuple(step(c, x, y) for x, y in pairs)


def stretched(contents: Contents | None, count: int) -> Contents:
    """One entry for each of the result's."""
    contents = contents or (Unknown(),)
    return contents * count if len(contents) == 1 else contents


@dataclass(frozen=True)
class SizeProduct(Rule):
    """The product of a list of integers. ONNX ReduceProd of rank 1, aten.prod."""

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        (axis,) = c.input(0)
        entries = c.contents(0) or (Unknown(),)
        result = entries[0]
        for entry in entries[1:]:
            result = multiplied(c, result, entry)
        c.freeze(axis, SIZE_LIST)
        c.set_contents((result,))
        return [tuple(c.atom(size) for size in c.sizes())]


@dataclass(frozen=True)
class TotalSize(Rule):
    """The number of entries of a tensor. ONNX Size, aten.numel."""

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        c.contents(0)  # of a list of sizes, only the length matters
        c.set_contents((SizeOf(product(*c.input(0))),))
        return [tuple(c.atom(size) for size in c.sizes())]


@dataclass(frozen=True)
class SizeComparison(Elementwise):
    """Compares lists of integers. No size equals, or is below, a number that is no size: -1, say.

    That answer stays; what any other comparison reads is pinned. ONNX Equal, Greater, Less on integers.
    """

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        left, right, count = c.contents(0), c.contents(1), math.prod(c.sizes())
        for x, y in zip(stretched(left, count), stretched(right, count), strict=True):
            values = [value_of(entry) for entry in (x, y) if not is_positive(entry)]
            if not (len(values) == 1 and values[0] is not None and values[0] <= 0):
                pinned(c, x, y)
        return super().axes(c)


@dataclass(frozen=True)
class SizeSelect(Select):
    """Takes entries of one list of integers or another, by a condition that stays. ONNX Where.

    Args:
        condition: One truth value per entry of the result.
    """

    condition: tuple[bool, ...] = ()

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        count = math.prod(c.sizes())
        x, y = stretched(c.contents(1), count), stretched(c.contents(2), count)
        condition = self.condition * (count // len(self.condition))
        c.set_contents(tuple(a if take else b for take, a, b in zip(condition, x, y, strict=True)))
        return super().axes(c)
