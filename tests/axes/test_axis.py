"""The algebra of axis types: atoms, products, sums, and which indices a unit owns."""

from __future__ import annotations

import numpy as np
import pytest

from getac.axes.axis import (
    Axis,
    Freeze,
    atom,
    factors,
    freeze,
    kept,
    leaves,
    product,
    terms,
    total,
    units,
)
from getac.axes.reasons import GRAPH_INPUT, INDEXED

MASK = np.array([True, False])
WHY = Freeze(GRAPH_INPUT, "x")


def sizes(parts: list[list[Axis]]) -> list[list[int]]:
    return [[factor.size for factor in part] for part in parts]


def test_a_product_is_row_major() -> None:
    heads, depth = atom(2), atom(3)
    axis = product(heads, depth)
    assert axis.size == 6
    assert units(axis, heads)[0].tolist() == [0, 0, 0, 1, 1, 1]
    assert units(axis, depth)[0].tolist() == [0, 1, 2, 0, 1, 2]


def test_a_sum_lies_end_to_end() -> None:
    q, k = atom(2), atom(3)
    axis = total(q, k)
    assert axis.size == 5
    assert units(axis, q)[0].tolist() == [0, 1, -1, -1, -1]
    assert units(axis, k)[0].tolist() == [-1, -1, 0, 1, 2]


def test_an_atom_that_occurs_twice_has_two_owners() -> None:
    head = atom(2)
    axis = total(head, atom(1), head)
    assert [owner.tolist() for owner in units(axis, head)] == [[0, 1, -1, -1, -1], [-1, -1, -1, 0, 1]]


def test_a_sum_inside_a_product() -> None:
    a, b, c = atom(1), atom(2), atom(2)
    axis = product(c, total(a, b))
    assert units(axis, b)[0].tolist() == [-1, 0, 1, -1, 0, 1]
    assert units(axis, c)[0].tolist() == [0, 0, 0, 1, 1, 1]


def test_an_atom_owns_itself_and_nothing_of_another() -> None:
    a = atom(3)
    assert units(a, a)[0].tolist() == [0, 1, 2]
    assert units(a, atom(3)) == []


def test_kept_follows_the_structure() -> None:
    a, b, c = atom(2), atom(2), atom(3)
    axis = total(product(a, b), c)
    masks = {a: MASK, c: np.array([False, True, True])}
    assert kept(axis, masks).tolist() == [True, True, False, False, False, True, True]
    assert kept(axis, {}).all()


def test_kept_needs_every_factor() -> None:
    a, b = atom(2), atom(2)
    assert kept(product(a, b), {a: MASK, b: ~MASK}).tolist() == [False, True, False, False]


def test_what_is_kept_is_what_no_removed_unit_owns() -> None:
    a, b, c = atom(3), atom(2), atom(4)
    axis = total(product(a, total(b, c)), b)
    masks = {b: MASK, a: np.array([True, False, True]), c: np.array([True, True, False, True])}
    expected = np.ones(axis.size, dtype=bool)
    for one, mask in masks.items():
        for owner in units(axis, one):
            expected &= (owner < 0) | mask[owner]
    assert np.array_equal(kept(axis, masks), expected)


def test_parts_of_size_one_vanish_from_products() -> None:
    a = atom(4)
    assert product(atom(1), a, atom(1)) is a
    assert product(atom(1), atom(1)).size == 1
    assert product().size == 1


def test_empty_parts_vanish_from_sums() -> None:
    a = atom(4)
    assert total(atom(0), a) is a
    assert total(atom(0), atom(0)).size == 0


def test_the_outermost_sum_distributes() -> None:
    a, b, c = atom(2), atom(3), atom(4)
    assert terms(product(total(a, b), c)) == [[a, c], [b, c]]
    assert sizes(terms(total(product(total(a, b), c), a))) == [[2, 4], [3, 4], [2]]


def test_an_inner_sum_stays_a_factor() -> None:
    a, b, c = atom(2), atom(3), atom(4)
    inner = total(a, b)
    assert terms(product(c, inner)) == [[c, inner]]


def test_factors_are_flat() -> None:
    a, b, c = atom(2), atom(3), atom(4)
    assert factors([product(a, product(b, c)), atom(1)]) == [a, b, c]


def test_leaves_are_in_order_once_per_occurrence() -> None:
    a, b = atom(2), atom(3)
    assert leaves(total(product(a, b), b)) == [a, b, b]


def test_the_first_reason_stays() -> None:
    a, b = atom(2), atom(3)
    freeze(a, WHY)
    freeze(product(a, b), Freeze(INDEXED, "gather"))
    assert a.frozen is WHY
    assert b.frozen == Freeze(INDEXED, "gather")
    assert str(WHY) == "a graph input (x)"


@pytest.mark.parametrize(
    ("axis", "text"),
    [(atom(3), "3"), (product(atom(2), atom(3)), "(2 x 3)"), (total(atom(2), atom(3)), "(2 + 3)")],
)
def test_axes_print_their_structure(axis: Axis, text: str) -> None:
    assert repr(axis) == text


def test_a_frozen_atom_prints_a_mark() -> None:
    a = atom(2)
    freeze(a, WHY)
    assert repr(product(a, atom(3))) == "(2! x 3)"
