"""Differences: numbers that add up, over batches and over the pieces of large arrays."""

from __future__ import annotations

import numpy as np
import pytest

from getac.verifying import differences
from getac.verifying.differences import Difference, difference

F32 = np.float32


def arrays(*shape):
    rng = np.random.default_rng(0)
    a = rng.normal(size=shape).astype(F32)
    return a, np.where(rng.random(shape) < 0.5, a, a + rng.normal(size=shape).astype(F32) / 10)


def test_batches_add_up():
    a, b = arrays(12, 5)
    whole = difference(a, b)
    parts = sum((difference(a[i : i + 5], b[i : i + 5]) for i in (0, 5, 10)), Difference())
    assert (parts.elements, parts.equal, parts.rows, parts.same_rows) == (
        60,
        whole.equal,
        12,
        whole.same_rows,
    )
    assert (parts.max_abs, parts.max_expected) == (whole.max_abs, whole.max_expected)
    for name in ("sqnr_db", "cosine", "relative", "equal_share", "top1"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name))


def test_large_arrays_go_in_pieces(monkeypatch):
    a, b = arrays(7, 11)
    whole = difference(a, b)
    monkeypatch.setattr(differences, "_CHUNK", 10)
    pieces = difference(a, b)
    assert (pieces.elements, pieces.equal, pieces.max_abs) == (77, whole.equal, whole.max_abs)
    assert pieces.sqnr_db == pytest.approx(whole.sqnr_db) and pieces.top1 == whole.top1


def test_the_cosine():
    assert difference(np.array([3.0, 4.0]), np.array([6.0, 8.0])).cosine == pytest.approx(1.0)
    assert difference(np.array([3.0, 4.0]), np.array([-4.0, 3.0])).cosine == pytest.approx(0.0)
    assert difference(np.zeros(2), np.zeros(2)).cosine == 1.0
    assert difference(np.zeros(2), np.ones(2)).cosine is None


def test_what_is_not_finite():
    nan, inf = np.nan, np.inf
    same = difference(np.array([nan, inf, -inf, 2.0]), np.array([nan, inf, -inf, 1.0]))
    assert same.finite and (same.equal, same.nans, same.max_abs) == (3, 1, 1.0)
    for a, b in ((inf, -inf), (nan, inf), (inf, 1.0), (1.0, nan)):
        assert not difference(np.array([a]), np.array([b])).finite


def test_other_shapes_stay_other_shapes():
    total = difference(np.ones(3), np.ones(3)) + difference(np.ones(3), np.ones(4))
    assert not total.shapes and not total.finite and total.relative == np.inf
    assert (total.sqnr_db, total.equal_share, total.cosine) == (-200.0, 0.0, None)


def test_booleans_and_integers():
    found = difference(np.array([True, False]), np.array([True, True]))
    assert (found.equal_share, found.max_abs) == (0.5, 1.0)
    assert difference(np.array([250], np.uint8), np.array([4], np.uint8)).max_abs == 246.0


def test_nothing_is_equal_to_nothing():
    empty = difference(np.ones((0, 3), F32), np.ones((0, 3), F32))
    assert (empty.elements, empty.equal_share, empty.relative, empty.top1) == (0, 1.0, 0.0, None)
