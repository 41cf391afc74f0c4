"""Unification of axis types: makes two dimensions the same axis, refining atoms as needed.

An atom that must equal a product or a sum is refined into it, whatever the numbers are. What cannot be
aligned (12 x 64 against 9 x something) is frozen on both sides: unknown means unprunable, never wrong.
"""

from __future__ import annotations

import math
from collections import deque

from getac.axes.axis import (
    Axis,
    Freeze,
    Kind,
    atom,
    distribute,
    factors,
    freeze,
    leaves,
    product,
    refine,
    resolve,
    terms,
)
from getac.axes.reasons import PARTS_APART, SELF_CONTAINING, SPLIT_ELSEWHERE, UNEQUAL_SIZES, Reason

__all__ = ["unify", "unify_sizes"]


def unify(x: Axis, y: Axis, node: str) -> None:
    """States that `x` and `y` are the same axis, index by index.

    Axes of different sizes cannot be; both are frozen. A size of 1 ties nothing.

    Args:
        node: The node that states it, for the reasons of what must be frozen.
    """
    x, y = resolve(x), resolve(y)
    if x is y:
        return
    if x.size != y.size:
        _freeze_all([x, y], UNEQUAL_SIZES.about(x.size, y.size), node)
    elif x.size == 1:
        return
    elif x.kind is Kind.ATOM:
        _link(x, y, node)
    elif y.kind is Kind.ATOM:
        _link(y, x, node)
    else:
        _align_sums(terms(x), terms(y), node)


def unify_sizes(x: Axis, y: Axis, node: str) -> None:
    """States that `x` and `y` stay equal in size, in whatever order their factors stand.

    Factors that both have cancel; what is left is unified, which is more than is needed, but safe.
    """
    left, right = factors([x]), factors([y])
    for factor in list(left):
        position = next((i for i, other in enumerate(right) if other is factor), None)
        if position is not None:
            del right[position]
            left.remove(factor)
    if left or right:
        unify(product(*left), product(*right), node)


def _link(x: Axis, y: Axis, node: str) -> None:
    """Makes the atom `x` stand for `y`."""
    if _occurs(x, y):  # only next to parts of size 1: there is nothing to refine
        _freeze_all([x], SELF_CONTAINING, node)
        return
    if x.frozen:
        freeze(y, x.frozen)
    x.link = y


def _occurs(x: Axis, y: Axis) -> bool:
    return y.kind is not Kind.ATOM and any(leaf is x for leaf in leaves(y))


def _freeze_all(axes: list[Axis], reason: Reason, node: str) -> None:
    for axis in axes:
        freeze(axis, Freeze(reason, node))


def _size(term: list[Axis]) -> int:
    return math.prod(factor.size for factor in term)


def _align_sums(left: list[list[Axis]], right: list[list[Axis]], node: str) -> None:
    """Walks two sums of equal length from the front, splitting the longer term where the shorter ends."""
    pending, others = deque(left), deque(right)
    while pending and others:
        a, b = pending.popleft(), others.popleft()
        if _size(a) == _size(b):
            _align_products(a, b, node)
            continue
        if _size(a) < _size(b):
            a, b, pending, others = b, a, others, pending
        pieces = _split(a, _size(b))
        if pieces is None:
            _freeze_to_common_boundary(a, b, pending, others, node)
        else:
            pending.extendleft(reversed(pieces))
            others.appendleft(b)


def _freeze_to_common_boundary(
    a: list[Axis], b: list[Axis], after_a: deque[list[Axis]], after_b: deque[list[Axis]], node: str
) -> None:
    """Two sums whose parts do not line up: freezes both until they end at the same index again."""
    reason = PARTS_APART
    end_a, end_b = _size(a), _size(b)
    _freeze_all(a + b, reason, node)
    while end_a != end_b:
        term = after_a.popleft() if end_a < end_b else after_b.popleft()
        if end_a < end_b:
            end_a += _size(term)
        else:
            end_b += _size(term)
        _freeze_all(term, reason, node)


def _split(term: list[Axis], offset: int) -> list[list[Axis]] | None:
    """Cuts a product of factors in two at an index, refining its outermost atom; None if it cannot be cut."""
    term = factors(term)
    head, rest = resolve(term[0]), term[1:]
    if offset % _size(rest):
        return None
    cut = offset // _size(rest)
    if head.kind is Kind.SUM:
        return _split_sum(distribute(term), offset)
    first, second = atom(cut, head.label), atom(head.size - cut, head.label)
    refine(head, Kind.SUM, (first, second))
    return [factors([first, *rest]), factors([second, *rest])]


def _split_sum(parts: list[list[Axis]], offset: int) -> list[list[Axis]] | None:
    """Cuts a sum of products at an index; the part that contains the index is cut in turn."""
    pieces: list[list[Axis]] = []
    for part in parts:
        size = _size(part)
        if 0 < offset < size:
            halves = _split(part, offset)
            if halves is None:
                return None
            pieces += halves
        else:
            pieces.append(part)
        offset -= size
    return pieces


def _align_products(left: list[Axis], right: list[Axis], node: str) -> None:
    """Walks two products of equal size from the outermost factor, refining the larger by the smaller."""
    pending, others = deque(factors(left)), deque(factors(right))
    while pending and others:
        a, b = _next_factor(pending), _next_factor(others)
        if a.size == b.size:
            unify(a, b, node)
            continue
        if a.size < b.size:
            a, b, pending, others = b, a, others, pending
        if a.size % b.size:
            _freeze_to_common_factor(a, b, pending, others, node)
        else:
            pending.appendleft(_divide(a, b, node))


def _next_factor(pending: deque[Axis]) -> Axis:
    """The next factor; an earlier step may have refined it into a product meanwhile."""
    head, *rest = factors([pending.popleft()])
    pending.extendleft(reversed(rest))
    return resolve(head)


def _divide(a: Axis, b: Axis, node: str) -> Axis:
    """Refines `a` into b x inner and returns `inner`."""
    inner = atom(a.size // b.size, a.label)
    if a.kind is Kind.ATOM:
        outer = atom(b.size, a.label)
        refine(a, Kind.PRODUCT, (outer, inner))
        unify(outer, b, node)
    else:  # a sum is a product only if its parts align with every step of b
        _align_sums(terms(product(b, inner)), terms(a), node)
    return inner


def _freeze_to_common_factor(a: Axis, b: Axis, after_a: deque[Axis], after_b: deque[Axis], node: str) -> None:
    """Two products without a common outer factor: freezes both until they have covered the same size."""
    reason = SPLIT_ELSEWHERE
    size_a, size_b = a.size, b.size
    _freeze_all([a, b], reason, node)
    while size_a != size_b:
        if size_a < size_b:
            factor = _next_factor(after_a)
            size_a *= factor.size
        else:
            factor = _next_factor(after_b)
            size_b *= factor.size
        _freeze_all([factor], reason, node)
