"""Sizes that must stay equal, whatever the order of the units is."""

from __future__ import annotations

from getac.axes.axis import atom, leaves, product, resolve, total
from getac.axes.unify import unify_sizes


def test_the_order_of_factors_does_not_matter() -> None:
    a, b = atom(4), atom(2)
    unify_sizes(product(a, b), product(b, a), "n")
    assert resolve(a) is not resolve(b)
    assert [leaf.frozen for leaf in (a, b)] == [None, None]
    assert a.parts == b.parts == ()


def test_what_is_not_shared_is_the_same_axis() -> None:
    a, b, c = atom(4), atom(2), atom(4)
    unify_sizes(product(a, b), product(b, c), "n")
    assert resolve(a) is resolve(c)


def test_twice_a_size_may_be_a_sum() -> None:
    two, one, other = atom(2), atom(5), atom(5)
    unify_sizes(product(two, one), total(one, other), "n")
    assert resolve(one) is resolve(other)
    assert [leaf.size for leaf in leaves(two)] == [1, 1]


def test_sizes_that_differ_are_frozen() -> None:
    a, b, c = atom(4), atom(2), atom(3)
    unify_sizes(product(a, b), product(a, c), "n")
    assert a.frozen is None
    assert b.frozen is not None and c.frozen is not None
