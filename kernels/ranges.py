"""Streaming estimators of the range that an activation quantizer should cover.

Every estimator sees the data once, batch by batch, and keeps a few numbers (min-max) or one histogram of
fixed size (percentile, mean squared error). Nothing is subsampled.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = [
    "METHODS",
    "Histogram",
    "MeanSquaredError",
    "MinMax",
    "Percentile",
    "RangeEstimator",
    "range_estimator",
]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

METHODS = ("minmax", "percentile", "mse")
"""The names that `range_estimator` knows."""

BINS = 2048
_CHUNK = 1 << 16  # elements at a time: the temporaries of one chunk stay in the cache
_SHRINKS: Floats = np.geomspace(1.0, 0.04, 64)  # the clippings tried: from all of the range to 4 %


class RangeEstimator(Protocol):
    """What all estimators offer: feed batches with `update`, read the bounds with `range`."""

    skipped: int

    def update(self, array: Array) -> None: ...

    def range(self) -> tuple[float, float]: ...


class MinMax:
    """The smallest and the largest value seen.

    The range always contains 0, so that 0 is representable exactly; data that is never negative has the
    lower bound 0.0, and data that is all zero (or no data) has the range (0.0, 0.0). Values that are not
    finite are left out and counted in `skipped`.
    """

    def __init__(self) -> None:
        self.low = 0.0
        self.high = 0.0
        self.skipped = 0

    def update(self, array: Array) -> None:
        """Takes one batch of any shape, read as float32."""
        self._take(_finite(array, self))

    def range(self) -> tuple[float, float]:
        return self.low, self.high

    def _take(self, values: Array) -> None:
        if values.size:
            self.low = min(self.low, float(values.min()))
            self.high = max(self.high, float(values.max()))


class Histogram(MinMax):
    """Exact bounds plus counts in 2048 equal bins over [-limit, limit].

    Data beyond the limit doubles the limit as often as needed; each doubling merges neighbouring bins, so
    no value is ever counted anew. The limit starts at the largest magnitude of the first batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.limit = 0.0
        self.zeros = 0  # how many of the counted values are exactly zero
        self.counts = np.zeros(BINS, np.int64)

    def _take(self, values: Array) -> None:
        super()._take(values)
        self._grow(max(-self.low, self.high))
        self.zeros += int(values.size - np.count_nonzero(values))
        # All zero so far: whatever the limit will be, zero lies in the bin right of the centre.
        if self.limit == 0.0:
            self.counts[BINS // 2] = self.zeros
            return
        flat = values.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            self.counts += self._count(flat[start : start + _CHUNK])

    def _grow(self, magnitude: float) -> None:
        if self.limit == 0.0:
            self.limit = magnitude
        while self.limit < magnitude:
            merged = np.zeros_like(self.counts)
            merged[BINS // 4 : 3 * BINS // 4] = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts, self.limit = merged, 2 * self.limit

    def _count(self, values: Array) -> npt.NDArray[np.int64]:
        # A limit near the smallest float32 would overflow the scale.
        scale = np.asarray(BINS / 2 / self.limit, np.float32 if self.limit > 1e-30 else np.float64)
        scaled = values * scale
        scaled += BINS / 2
        counts = np.bincount(scaled.astype(np.intp), minlength=BINS + 1)
        counts[BINS - 1] += counts[BINS]  # the value `limit` itself belongs to the last bin
        return counts[:BINS]

    @property
    def edges(self) -> Floats:
        """The 2049 bounds of the bins, ascending."""
        return np.linspace(-self.limit, self.limit, BINS + 1)


class Percentile(Histogram):
    """The range that leaves out at most 100 - percent percent of the values on each side.

    Linear interpolation inside a bin; the result is cut to the exact bounds of the data.
    """

    def __init__(self, percent: float = 99.99) -> None:
        super().__init__()
        self.percent = percent

    def range(self) -> tuple[float, float]:
        if self.limit == 0.0:
            return 0.0, 0.0
        cumulative = np.concatenate([[0], np.cumsum(self.counts)]) / self.counts.sum()
        tail = 1 - self.percent / 100
        low = float(np.interp(tail, cumulative, self.edges))
        # Reading from the other side makes the upper bound stop before a stretch of empty bins.
        high = -float(np.interp(tail, 1 - cumulative[::-1], -self.edges[::-1]))
        return max(self.low, min(low, 0.0)), min(self.high, max(high, 0.0))


class MeanSquaredError(Histogram):
    """The range whose uniform lattice with 2**bits levels has the least mean squared error.

    With s = (high - low) / (2**bits - 1), v = min(max(x, low), high) and q(x) = s round(v / s), it minimises
    the mean of (q(x) - x)^2 over clippings of the observed range: first both bounds by one factor, then each
    on its own. Candidates are moved by up to half a step, so that zero lies on the lattice. The density is
    taken as constant inside a bin, and the error is integrated exactly, so a lattice that happens to agree
    with the bins gains nothing; exact zeros cost nothing.
    """

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        self.bits = bits

    def range(self) -> tuple[float, float]:
        if self.limit == 0.0:
            return 0.0, 0.0
        low, high = self._best(self.low * _SHRINKS, self.high * _SHRINKS)
        if self.low < 0.0 < self.high:
            low, high = self._best(np.full_like(_SHRINKS, low), self.high * _SHRINKS)
            low, high = self._best(self.low * _SHRINKS, np.full_like(_SHRINKS, high))
        return low, high

    def _best(self, lows: Floats, highs: Floats) -> tuple[float, float]:
        steps = (highs - lows) / (2**self.bits - 1)
        lows = np.rint(lows / steps) * steps + 0.0  # never -0.0
        highs = lows + steps * (2**self.bits - 1)
        winner = int(np.argmin(self.errors(lows, highs)))
        return float(lows[winner]), float(highs[winner])

    def errors(self, lows: Floats, highs: Floats) -> Floats:
        """The expected squared error of each range with zero on its lattice; shapes (n,), (n,) -> (n,)."""
        edges, counts = self._filled()
        lows, highs = lows[:, None], highs[:, None]
        step = (highs - lows) / (2**self.bits - 1)
        kept = np.clip(edges, lows, highs)
        level = np.rint(kept / step)
        # The integral of (q(x) - x)^2 from 0: each level passed adds step^3 / 12, the rest is cubic.
        integral = level * step**3 / 12 + (kept - level * step) ** 3 / 3 + (edges - kept) ** 3 / 3
        mean: Floats = np.diff(integral, axis=1) @ counts / (self.counts.sum() * (edges[1] - edges[0]))
        return mean

    def _filled(self) -> tuple[Floats, npt.NDArray[np.int64]]:
        # Zero is on every lattice: after a Relu, half of the values are zeros, and cost nothing.
        counts = self.counts.copy()
        counts[BINS // 2] -= self.zeros
        filled = np.flatnonzero(counts)
        first, last = filled[0], filled[-1] + 1
        return self.edges[first : last + 1], counts[first:last]


def range_estimator(method: str, bits: int = 8) -> RangeEstimator:
    """A new estimator of the named method; raises ValueError unless `method` is one of METHODS."""
    if method == "minmax":
        return MinMax()
    if method == "percentile":
        return Percentile()
    if method == "mse":
        return MeanSquaredError(bits)
    raise ValueError(f"range method must be one of {', '.join(METHODS)}, not {method!r}")


def _finite(array: Array, estimator: MinMax) -> Array:
    values = np.asarray(array, np.float32)
    # One sum finds NaN and infinities at the cost of a read; a sum that overflows only costs the check.
    with np.errstate(over="ignore", invalid="ignore"):
        clean = bool(np.isfinite(values.sum()))
    if clean:
        return values
    mask = np.isfinite(values)
    estimator.skipped += int(values.size - np.count_nonzero(mask))
    return values[mask]
