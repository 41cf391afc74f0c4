"""How far arrays are from those that they should be, in numbers that add up over batches."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Difference", "difference", "sqnr"]

Array = npt.NDArray[Any]

INFINITE_DB = 200.0
_CHUNK = 1 << 20  # elements that are in float64 at a time


@dataclass(frozen=True)
class Difference:
    """Sums over pairs of arrays, a as it should be and b as it is; sums and maxima are over finite pairs.

    Args:
        shapes: Whether all shapes are the same; if not, nothing else counts.
        finite: Whether a and b are finite in the same places.
        elements: How many there are.
        equal: How many of them are the same, NaN for NaN included.
        max_abs: max |a - b|.
        max_expected: max |a|.
        signal: sum a^2.
        found: sum b^2.
        product: sum a b.
        noise: sum (a - b)^2.
        rows: Rows of what looks like logits: floats of shape (samples, classes).
        same_rows: Those whose greatest entry is the same.
        nans: How many NaN are in a.
    """

    shapes: bool = True
    finite: bool = True
    elements: int = 0
    equal: int = 0
    max_abs: float = 0.0
    max_expected: float = 0.0
    signal: float = 0.0
    found: float = 0.0
    product: float = 0.0
    noise: float = 0.0
    rows: int = 0
    same_rows: int = 0
    nans: int = 0

    def __add__(self, other: Difference) -> Difference:
        pairs = ((one.name, getattr(self, one.name), getattr(other, one.name)) for one in fields(self))
        return Difference(**{name: _JOIN.get(name, operator.add)(a, b) for name, a, b in pairs})

    @property
    def greatest(self) -> float:
        """max |a - b|; infinite where shapes differ."""
        return self.max_abs if self.shapes else np.inf

    @property
    def relative(self) -> float:
        """max |a - b| / max |a|."""
        return self.greatest / (self.max_expected or 1.0)

    @property
    def sqnr_db(self) -> float:
        """10 log10(sum a^2 / sum (a - b)^2), at most 200."""
        return sqnr(self.signal, self.noise) if self.shapes else -INFINITE_DB

    @property
    def cosine(self) -> float | None:
        """sum a b / (|a| |b|): of the directions; None where one of them is zero and the other not."""
        if not self.signal or not self.found:
            return 1.0 if self.signal == self.found and self.shapes else None
        return self.product / float(np.sqrt(self.signal) * np.sqrt(self.found)) if self.shapes else None

    @property
    def top1(self) -> float | None:
        """The share of rows whose greatest entry is the same, where there are any."""
        return self.same_rows / self.rows if self.rows and self.shapes else None

    @property
    def equal_share(self) -> float:
        """The share of elements that are the same."""
        return (self.equal / self.elements if self.elements else 1.0) if self.shapes else 0.0


_JOIN: dict[str, Callable[[Any, Any], Any]] = {
    "shapes": operator.and_,
    "finite": operator.and_,
    "max_abs": max,
    "max_expected": max,
}


def difference(expected: Array, found: Array) -> Difference:
    """The difference of two numeric arrays; other shapes differ in everything."""
    if expected.shape != found.shape:
        return Difference(shapes=False, finite=False)
    total = Difference()
    for a, b in _chunks(expected, found):
        total += _chunk(a, b)
    rows, same = _same_rows(expected, found)
    return total + Difference(rows=rows, same_rows=same)


def _chunks(expected: Array, found: Array) -> Iterator[tuple[Array, Array]]:
    a, b = expected.reshape(-1), found.reshape(-1)
    for start in range(0, a.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        yield a[part].astype(np.float64), b[part].astype(np.float64)


def _chunk(a: Array, b: Array) -> Difference:
    known, same = np.isfinite(a), (a == b) | (np.isnan(a) & np.isnan(b))
    both = known & np.isfinite(b)
    finite = bool((both | same).all())  # an infinity agrees with itself alone
    nans = int(np.isnan(a).sum())
    a, b = (a, b) if both.all() else (a[both], b[both])
    off = a - b
    return Difference(
        finite=finite,
        elements=same.size,
        equal=int(same.sum()),
        max_abs=float(np.abs(off).max(initial=0.0)),
        max_expected=float(np.abs(a).max(initial=0.0)),
        signal=float(a @ a),
        found=float(b @ b),
        product=float(a @ b),
        noise=float(off @ off),
        nans=nans,
    )


def _same_rows(expected: Array, found: Array) -> tuple[int, int]:
    """Rows, and those whose greatest entry is the same, for floats of shape (samples, classes)."""
    shape = expected.shape
    if len(shape) != 2 or shape[1] < 2 or expected.dtype.kind != "f":
        return 0, 0
    same = np.argmax(expected, axis=1) == np.argmax(found, axis=1)
    return len(same), int(same.sum())


def sqnr(signal: float, noise: float) -> float:
    if noise == 0:
        return INFINITE_DB
    return (
        float(np.clip(10 * np.log10(signal / noise), -INFINITE_DB, INFINITE_DB)) if signal else -INFINITE_DB
    )
