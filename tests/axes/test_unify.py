"""Unification: after x = y, whatever units go, the same indices stay on both sides."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from getac.axes.axis import Axis, Freeze, Mask, atom, freeze, kept, leaves, product, resolve, total
from getac.axes.reasons import GRAPH_INPUT, SPLIT_ELSEWHERE, UNEQUAL_SIZES
from getac.axes.unify import unify

WHY = Freeze(GRAPH_INPUT, "x")


def is_open(axis: Axis) -> bool:
    return all(leaf.frozen is None for leaf in leaves(axis))


def sizes(axis: Axis) -> list[int]:
    return [leaf.size for leaf in leaves(axis)]


def test_equal_atoms_become_one() -> None:
    a, b = atom(8), atom(8)
    unify(a, b, "add")
    assert resolve(a) is resolve(b)
    assert is_open(a)


def test_an_atom_is_refined_into_a_product() -> None:
    """view(B, T, 12, 64) of a dimension of 768."""
    width, heads, depth = atom(768), atom(12), atom(64)
    unify(width, product(heads, depth), "reshape")
    assert leaves(width) == [heads, depth]
    mask = np.arange(12) != 3
    assert kept(width, {heads: mask}).reshape(12, 64)[3].sum() == 0


def test_fused_projections_laid_out_end_to_end() -> None:
    """(3, heads, depth): q, k and v are one third each, and lose the same head."""
    fused, heads, depth = atom(36), atom(3), atom(4)
    unify(fused, product(atom(3, "qkv"), heads, depth), "reshape")
    stay = kept(fused, {resolve(heads): np.array([True, False, True])})
    assert stay.reshape(3, 3, 4).all(axis=(0, 2)).tolist() == [True, False, True]
    assert stay.sum() == 24


def test_fused_projections_interleaved_by_head() -> None:
    """(heads, 3, depth): each head's q, k and v are neighbours."""
    fused, heads = atom(36), atom(3)
    unify(fused, product(heads, atom(3, "qkv"), atom(4)), "reshape")
    stay = kept(fused, {resolve(heads): np.array([True, False, True])})
    assert stay.tolist() == [True] * 12 + [False] * 12 + [True] * 12


def test_a_split_into_products_shares_the_heads() -> None:
    """q + k + v, each viewed as heads x depth, with the heads of q and k the same."""
    fused, q, k, v = atom(24), atom(8), atom(8), atom(8)
    unify(fused, total(q, k, v), "split")
    heads, depth = atom(2), atom(4)
    for part in (q, k, v):
        unify(part, product(heads, depth), "reshape")
    assert sizes(fused) == [2, 4] * 3
    assert kept(fused, {resolve(heads): np.array([False, True])}).sum() == 12


def test_a_sum_inside_a_product_is_one_factor() -> None:
    a, b, c = atom(2), atom(3), atom(4)
    x = product(c, total(a, b))
    inner, outer = atom(5), atom(4)
    unify(x, product(outer, inner), "reshape")
    assert leaves(inner) == [a, b]
    assert resolve(outer) is resolve(c)


def test_an_outer_sum_distributes_over_what_follows() -> None:
    """(a + b) x c = a x c + b x c: a concat, flattened, is the concat of the flattened."""
    a, b, c = atom(2), atom(3), atom(4)
    flat_a, flat_b = atom(8), atom(12)
    unify(product(total(a, b), c), total(flat_a, flat_b), "flatten")
    assert leaves(flat_a) == [a, c]
    assert leaves(flat_b) == [b, c]


def test_products_refine_to_common_factors() -> None:
    """12 x 64 against 3 x 256 is 3 x 4 x 64."""
    twelve, depth, three, rest = atom(12), atom(64), atom(3), atom(256)
    unify(product(twelve, depth), product(three, rest), "reshape")
    assert sizes(twelve) == [3, 4]
    assert sizes(rest) == [4, 64]
    assert is_open(product(twelve, depth))
    assert leaves(twelve)[1] is leaves(rest)[0]


def test_products_without_a_common_factor_freeze() -> None:
    six, four = atom(6), atom(4)
    other_four, other_six = atom(4), atom(6)
    unify(product(six, four), product(other_four, other_six), "reshape_1")
    for axis in (six, four, other_four, other_six):
        assert axis.frozen == Freeze(SPLIT_ELSEWHERE, "reshape_1")


def test_what_follows_a_frozen_stretch_is_still_aligned() -> None:
    five, other_five = atom(5), atom(5)
    unify(product(atom(6), atom(4), five), product(atom(4), atom(6), other_five), "reshape")
    assert resolve(five) is resolve(other_five)
    assert is_open(five)


def test_sums_that_do_not_line_up_are_cut_anew() -> None:
    """3 + 5 against 5 + 3 is 3 + 2 + 3."""
    a, b, c, d = atom(3), atom(5), atom(5), atom(3)
    unify(total(a, b), total(c, d), "concat")
    assert sizes(total(a, b)) == sizes(total(c, d)) == [3, 2, 3]
    assert is_open(total(a, b))


def test_a_sum_of_products_freezes_where_it_cannot_be_cut() -> None:
    """2 x 4 cannot end after 6 entries; the parts that follow are free."""
    a, b, tail, other_tail = atom(2), atom(4), atom(5), atom(5)
    c, d = atom(6), atom(2)
    unify(total(product(a, b), tail), total(c, d, other_tail), "concat")
    assert not is_open(b)
    assert c.frozen is not None and c.frozen.reason == "parts that are laid end to end do not line up"
    assert resolve(tail) is resolve(other_tail)
    assert is_open(tail)


def test_a_frozen_atom_freezes_what_it_is_refined_into() -> None:
    a, heads, depth = atom(12), atom(3), atom(4)
    freeze(a, WHY)
    unify(a, product(heads, depth), "reshape")
    assert heads.frozen is WHY
    assert depth.frozen is WHY


def test_frozen_spreads_both_ways() -> None:
    a, b = atom(4), atom(4)
    freeze(b, WHY)
    unify(a, b, "add")
    assert resolve(a).frozen is WHY


def test_frozen_spreads_through_a_cut() -> None:
    a = atom(8)
    freeze(a, WHY)
    first, second = atom(3), atom(5)
    unify(a, total(first, second), "split")
    assert resolve(first).frozen is WHY
    assert resolve(second).frozen is WHY


def test_a_size_of_one_ties_nothing() -> None:
    a, b = atom(1), atom(1)
    freeze(b, WHY)
    unify(a, b, "add")
    assert a.frozen is None


def test_different_sizes_freeze() -> None:
    a, b = atom(4), atom(8)
    unify(a, b, "add")
    assert a.frozen == b.frozen == Freeze(UNEQUAL_SIZES.about(4, 8), "add")


def test_a_channel_shuffle_under_a_residual() -> None:
    """2 x 8 transposed to 8 x 2 and added to what it came from: the shuffle permutes the bits of 16."""
    groups, inner = atom(2), atom(8)
    channels, shuffled = atom(16), atom(16)
    unify(channels, product(groups, inner), "reshape")
    unify(shuffled, product(inner, groups), "reshape")
    unify(channels, shuffled, "add")
    assert sizes(channels) == [2, 2, 2, 2]
    (leaf,) = set(leaves(channels))
    masks = {leaf: np.array([True, False])}
    assert np.array_equal(kept(channels, masks), kept(shuffled, masks))


def test_a_chain_of_splits_of_the_same_axis() -> None:
    a = atom(12)
    for cut in range(1, 12):
        unify(a, total(atom(cut), atom(12 - cut)), "slice")
    assert sizes(a) == [1] * 12


def test_long_chains_of_concats_and_slices_do_not_nest() -> None:
    length = 3000
    joined, whole = atom(1), atom(length)
    rest = whole
    for size in range(2, length + 1):
        joined = total(joined, atom(1))
        before, after = atom(1), atom(length - size + 1)
        unify(rest, total(before, after), "slice")
        rest = after
    unify(joined, whole, "add")
    assert len(leaves(whole)) == length
    assert kept(joined, {}).size == kept(whole, {}).size == length


@st.composite
def axis_of(draw: st.DrawFn, size: int, pool: list[Axis], depth: int = 3) -> Axis:
    """A random type of the given size; atoms of the pool recur, so that equations interact."""
    known = [axis for axis in pool if axis.size == size]
    kinds = ["atom", "known"] if known else ["atom"]
    divisors = [d for d in range(2, size) if size % d == 0]
    if depth and divisors:
        kinds.append("product")
    if depth and size > 1:
        kinds.append("sum")
    kind = draw(st.sampled_from(kinds))
    if kind == "known":
        return draw(st.sampled_from(known))
    if kind == "atom":
        made = atom(size)
        if draw(st.integers(0, 9)) == 0:
            freeze(made, WHY)
    elif kind == "product":
        outer = draw(st.sampled_from(divisors))
        made = product(*(draw(axis_of(part, pool, depth - 1)) for part in (outer, size // outer)))
    else:
        cut = draw(st.integers(1, size - 1))
        made = total(*(draw(axis_of(part, pool, depth - 1)) for part in (cut, size - cut)))
    pool.append(made)
    return made


def random_masks(axes: list[Axis], rng: np.random.Generator) -> Mapping[Axis, Mask]:
    """Units of every open atom at once; frozen ones, and single units, stay."""
    found = dict.fromkeys(
        leaf for axis in axes for leaf in leaves(axis) if leaf.frozen is None and leaf.size > 1
    )
    return {leaf: rng.random(leaf.size) < 0.7 for leaf in found}


@given(data=st.data(), size=st.sampled_from([2, 4, 6, 8, 12, 16, 24, 36]), seed=st.integers(0, 2**31))
@settings(max_examples=400, deadline=2000)
def test_both_sides_of_every_equation_keep_the_same_indices(
    data: st.DataObject, size: int, seed: int
) -> None:
    pool: list[Axis] = []
    pairs = [
        (data.draw(axis_of(size, pool)), data.draw(axis_of(size, pool)))
        for _ in range(data.draw(st.integers(1, 4)))
    ]
    for x, y in pairs:
        unify(x, y, "node")
    rng = np.random.default_rng(seed)
    masks = random_masks([axis for pair in pairs for axis in pair], rng)
    for x, y in pairs:
        assert x.size == y.size == size
        assert np.array_equal(kept(x, masks), kept(y, masks)), (x, y)
