"""Einstein summation: each letter is an axis, and letters that the result lacks are summed away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from string import ascii_letters

import numpy as np

from getac.axes.axis import Axis, product
from getac.axes.reasons import DIAGONAL
from getac.rules.base import UNKNOWN, Axes, AxisContext, Rule, Slab, SlabContext, Slabs
from getac.rules.contraction import attention_roles

__all__ = ["Einsum", "parse"]


def parse(equation: str, ranks: Sequence[int]) -> Einsum:
    """The rule of an equation such as `bhid,bhjd->bhij`.

    Dimensions under an ellipsis get letters of their own, aligned at the last one. Without an arrow the
    result has the ellipsis and then the letters that occur once, in alphabetical order.

    Args:
        ranks: The ranks of the operands.

    Raises:
        ValueError: The equation does not fit the operands.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    texts = left.split(",")
    if len(texts) != len(ranks):
        raise ValueError(f"{equation!r} does not fit {len(ranks)} operands")
    covered = [rank - len(text.replace("...", "")) for text, rank in zip(texts, ranks, strict=True)]
    spare = [letter for letter in ascii_letters if letter not in equation]
    if any(n and (n < 0 or "..." not in text) for n, text in zip(covered, texts, strict=True)):
        raise ValueError(f"{equation!r} does not fit operands of ranks {tuple(ranks)}")
    ellipsis = "".join(spare[: max(covered)])
    if not arrow:
        letters = left.replace("...", "").replace(",", "")
        right = "..." + "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    operands = tuple(
        text.replace("...", ellipsis[len(ellipsis) - n :]) for n, text in zip(covered, texts, strict=True)
    )
    return Einsum(operands, right.replace("...", ellipsis))


def last_run(weight: str, other: str) -> str:
    """The last letters in a row that a weight has alone: its columns, if it has several matrices."""
    runs = "".join(" " if letter in other else letter for letter in weight).split()
    return runs[-1] if runs else ""


@dataclass(frozen=True)
class Einsum(Rule):
    """Sums products of the operands over every letter that the result lacks. ONNX Einsum, aten.einsum.

    A letter of size 1 in one operand and not in another is stretched, as in broadcasting.

    Args:
        operands: One letter per dimension of each input.
        result: The letters of the output.
    """

    operands: tuple[str, ...]
    result: str

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        inputs = [c.input(i) for i in range(len(self.operands))]
        found: dict[str, Axis] = {}
        for letters, axes in zip(self.operands, inputs, strict=True):
            for letter, axis in zip(letters, axes, strict=True):
                known = found.get(letter)
                if known is None or known.size == 1:
                    found[letter] = axis
                elif axis.size != 1:
                    c.same(known, axis)
        for letters in self.operands:
            for letter in set(letters):
                if letters.count(letter) > 1:
                    c.freeze(found[letter], DIAGONAL)
        if len(self.operands) == 2:
            self._roles(c, found)
        return [tuple(found[letter] for letter in self.result)]

    def _roles(self, c: AxisContext, found: dict[str, Axis]) -> None:
        """Names, as the matrix product has them: several letters in a row are one dimension there."""
        a, b = self.operands
        summed = self._product(found, [x for x in a if x in b and x not in self.result])
        if c.is_weight(1) or c.is_weight(0):
            weight, other = (b, a) if c.is_weight(1) else (a, b)
            c.layer(summed, self._product(found, last_run(weight, other)))
            return
        shared = [x for x in self.result if x in a and x in b]
        heads = [x for x in a if x in self._repeated(shared)]
        columns = [x for x in b if x not in a and x in self.result]
        if summed.size > 1 and shared:
            batch = (found[shared[0]], *(found[x] for x in heads))
            attention_roles(c, batch, summed, self._product(found, columns))

    def _repeated(self, shared: Sequence[str]) -> str:
        """The heads that both operands have, and what stands next to them in the first alone: repeats."""
        a, b = self.operands
        heads = "".join(shared[1:])
        for letter, behind in pairwise(a):
            if letter in heads and behind not in b and behind in self.result:
                heads += behind
        return heads

    def _product(self, found: dict[str, Axis], letters: Sequence[str]) -> Axis:
        return product(*(found[letter] for letter in letters))

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        places = self._places([c.input_sizes(i) for i in range(len(self.operands))])
        for letter, where in places.items():
            if letter not in self.result:
                (index, dimension), *others = where
                c.contract(index, dimension, self._zero_in_any(c, others))
        return [tuple(self._zero_in_any(c, places[letter]) for letter in self.result)]

    def _places(self, sizes: Sequence[tuple[int, ...]]) -> dict[str, list[tuple[int, int]]]:
        """Where each letter stands, as (operand, dimension), without the dimensions that are stretched."""
        places: dict[str, list[tuple[int, int]]] = {}
        for index, letters in enumerate(self.operands):
            for dimension, letter in enumerate(letters):
                places.setdefault(letter, []).append((index, dimension))
        for letter, where in places.items():
            size = max(sizes[index][dimension] for index, dimension in where)
            places[letter] = [
                (index, dimension) for index, dimension in where if sizes[index][dimension] == size
            ]
        return places

    def _zero_in_any(self, c: SlabContext, where: Sequence[tuple[int, int]]) -> Slab:
        """A product is zero where one of its factors is."""
        result = UNKNOWN
        for index, dimension in where:
            result = np.where(c.slab(index, dimension) == 0, 0.0, result)
        return result

    def macs(self, inputs: Sequence[tuple[int, ...] | None], output: tuple[int, ...]) -> int:
        """Operands are multiplied from the left to the right, summing a letter as soon as it is done."""
        sizes: dict[str, int] = {}
        for letters, shape in zip(self.operands, inputs, strict=False):
            for letter, size in zip(letters, shape or (), strict=True):
                sizes[letter] = max(size, sizes.get(letter, 1))
        count, current = 0, set(self.operands[0])
        for position, letters in enumerate(self.operands[1:], start=2):
            current |= set(letters)
            count += math.prod(sizes[letter] for letter in current)
            current &= set(self.result).union(*self.operands[position:])
        return count
