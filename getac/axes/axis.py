"""Axis types: the shape of a dimension as atoms, row-major products and end-to-end sums.

    atom(n)             n interchangeable units that nobody has looked into yet
    product(a, b, ...)  row-major, outermost first:  view(B, T, heads, d) says  D = heads x d
    total(a, b, ...)    end to end:                   concat says                D = q + k + v

Atoms are refined in place (union-find links, as in type inference), so every dimension that shares an
atom sees the refinement. `resolve` follows the links.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from getac.axes.reasons import Reason

__all__ = [
    "Axis",
    "Freeze",
    "atom",
    "freeze",
    "kept",
    "leaves",
    "product",
    "resolve",
    "terms",
    "total",
    "units",
]

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Freeze:
    """Why an axis must keep all of its units, and the node that says so."""

    kind: Reason
    node: str

    @property
    def reason(self) -> str:
        return self.kind.text

    @property
    def hint(self) -> str:
        """What a person can do about it."""
        return self.kind.hint

    def __str__(self) -> str:
        return f"{self.reason} ({self.node})" if self.node else self.reason


class Kind(Enum):
    ATOM = "atom"
    PRODUCT = "product"
    SUM = "sum"


class Axis:
    """A dimension's type; compare by identity of `resolve(axis)`.

    `size` never changes. `kind` and `parts` change once, when an atom is refined (and sums of sums are
    flattened in passing); `link` points to the axis that an atom was unified with. `label` names the value or
    the node that an atom was created for.
    """

    __slots__ = ("frozen", "kind", "label", "link", "parts", "size")

    def __init__(self, size: int, label: str, kind: Kind = Kind.ATOM, parts: tuple[Axis, ...] = ()) -> None:
        self.size = size
        self.label = label
        self.kind = kind
        self.parts = parts
        self.link: Axis | None = None
        self.frozen: Freeze | None = None

    def __repr__(self) -> str:
        axis = resolve(self)
        if axis.kind is Kind.ATOM:
            return f"{axis.size}{'!' if axis.frozen else ''}"
        sign = " x " if axis.kind is Kind.PRODUCT else " + "
        return "(" + sign.join(map(repr, axis.parts)) + ")"


def resolve(axis: Axis) -> Axis:
    """The axis that this one stands for, after all unifications so far."""
    while axis.link is not None:
        if axis.link.link is not None:
            axis.link = axis.link.link  # path halving
        axis = axis.link
    return axis


def atom(size: int, label: str = "") -> Axis:
    """`size` units that nobody has looked into yet."""
    return Axis(size, label)


def product(*parts: Axis, label: str = "") -> Axis:
    """The row-major product of the parts, outermost first; parts of size 1 vanish."""
    factors = tuple(part for part in parts if part.size != 1)
    if len(factors) == 1:
        return factors[0]
    return Axis(math.prod(part.size for part in factors), label, Kind.PRODUCT, factors)


def total(*parts: Axis, label: str = "") -> Axis:
    """The parts laid end to end; empty parts vanish."""
    addends = tuple(part for part in parts if part.size != 0)
    if len(addends) <= 1:
        return addends[0] if addends else atom(0, label)
    return Axis(sum(part.size for part in addends), label, Kind.SUM, addends)


def refine(axis: Axis, kind: Kind, parts: tuple[Axis, ...]) -> None:
    """Turns an atom into a product or a sum; what was frozen stays frozen in every part."""
    if axis.frozen:
        for part in parts:
            freeze(part, axis.frozen)
    axis.kind, axis.parts = kind, parts


def freeze(axis: Axis, why: Freeze) -> None:
    """Freezes every atom of the axis; the first reason given to an atom stays."""
    for leaf in leaves(axis):
        if leaf.frozen is None:
            leaf.frozen = why


def leaves(axis: Axis) -> list[Axis]:
    """The atoms that the axis is made of, in order, one entry per occurrence."""
    axis = resolve(axis)
    if axis.kind is Kind.ATOM:  # as most axes are
        return [axis]
    found: list[Axis] = []
    pending = [axis]
    while pending:
        current = resolve(pending.pop())
        if current.kind is Kind.ATOM:
            found.append(current)
        else:
            pending.extend(reversed(current.parts))
    return found


def addends(axis: Axis) -> tuple[Axis, ...]:
    """The parts of a sum, flat: a chain of concats or slices must not become a deep tree."""
    flat: list[Axis] = []
    pending = [axis]
    while pending:
        current = resolve(pending.pop())
        if current.kind is Kind.SUM:
            pending.extend(reversed(current.parts))
        else:
            flat.append(current)
    axis.parts = tuple(flat)
    return axis.parts


def factors(axes: Iterable[Axis]) -> list[Axis]:
    """Flattens nested products; sums and atoms are factors. Parts of size 1 vanish."""
    flat: list[Axis] = []
    for axis in map(resolve, axes):
        if axis.kind is Kind.PRODUCT:
            flat.extend(factors(axis.parts))
        elif axis.size != 1:
            flat.append(axis)
    return flat


def terms(axis: Axis) -> list[list[Axis]]:
    """The axis as a sum of products of factors, with the outermost sum distributed.

    (a + b) x c = a x c + b x c holds index by index in row-major order. c x (a + b) has no such form, so
    a sum that is not outermost stays a factor.
    """
    axis = resolve(axis)
    if axis.kind is Kind.SUM:
        return [term for part in addends(axis) for term in terms(part)]
    if axis.kind is Kind.PRODUCT:
        return distribute(factors(axis.parts))
    return [[axis]] if axis.size != 1 else [[]]


def distribute(product_factors: list[Axis]) -> list[list[Axis]]:
    """`terms` of a product that is given as its factors."""
    if not product_factors or resolve(product_factors[0]).kind is not Kind.SUM:
        return [product_factors]
    head, rest = product_factors[0], product_factors[1:]
    return [term + rest for term in terms(head)]


def kept(axis: Axis, masks: Mapping[Axis, Mask]) -> Mask:
    """Which indices of the axis stay when each atom in `masks` keeps its marked units.

    Args:
        masks: Resolved atom -> bool array of its size; atoms that are not named keep everything.

    Returns:
        A bool array of `axis.size` entries.
    """
    axis = resolve(axis)
    if axis.kind is Kind.ATOM:
        mask = masks.get(axis)
        return np.ones(axis.size, dtype=np.bool_) if mask is None else mask
    if axis.kind is Kind.SUM:
        return np.concatenate([kept(part, masks) for part in addends(axis)])
    result = np.ones(1, dtype=np.bool_)
    for part in axis.parts:
        result = (result[:, None] & kept(part, masks)[None, :]).reshape(-1)
    return result


def units(axis: Axis, unit_atom: Axis) -> list[npt.NDArray[np.int64]]:
    """For each occurrence of an atom in the axis: which of its units owns each index, -1 for none.

    Returns:
        One int64 array of `axis.size` entries per occurrence of `unit_atom`.
    """
    axis = resolve(axis)
    if axis.kind is Kind.ATOM:
        return [np.arange(axis.size, dtype=np.int64)] if axis is unit_atom else []
    is_sum = axis.kind is Kind.SUM
    found: list[npt.NDArray[np.int64]] = []
    before = 0 if is_sum else 1
    for part in addends(axis) if is_sum else axis.parts:
        for owner in units(part, unit_atom):
            found.append(_place(axis, owner, before))
        before = before + part.size if is_sum else before * part.size
    return found


def _place(axis: Axis, owner: npt.NDArray[np.int64], before: int) -> npt.NDArray[np.int64]:
    """Puts one part's owners where the part lies in the axis; `before` is what precedes it (a size)."""
    if axis.kind is Kind.SUM:
        placed = np.full(axis.size, -1, dtype=np.int64)
        placed[before : before + owner.size] = owner
        return placed
    inner = axis.size // (before * owner.size)
    return np.tile(np.repeat(owner, inner), before)
