"""Range estimators against numpy on the whole sample, and what they must do with odd data."""

from __future__ import annotations

import numpy as np
import pytest

from getac.kernels.ranges import METHODS, Histogram, MeanSquaredError, MinMax, Percentile, range_estimator


def feed(estimator, data, batches=7):
    for part in np.array_split(data, batches):
        estimator.update(part)
    return estimator


def quantization_error(data, low, high, bits):
    step = (high - low) / (2**bits - 1)
    zero = np.rint(-low / step)
    levels = np.clip(np.rint(data / step) + zero, 0, 2**bits - 1)
    return float(np.mean(((levels - zero) * step - data) ** 2))


@pytest.fixture(scope="module")
def normal():
    return np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)


@pytest.fixture(scope="module")
def heavy():
    return np.random.default_rng(1).standard_t(3, 500_000).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_min_and_max_stay_exact_whatever_the_method(method, normal):
    estimator = feed(range_estimator(method, bits=8), normal)
    assert (estimator.low, estimator.high) == (normal.min(), normal.max())


def test_minmax_is_the_bounds(normal):
    assert feed(MinMax(), normal).range() == (normal.min(), normal.max())


@pytest.mark.parametrize("percent", [99.0, 99.9, 99.99])
def test_percentile_agrees_with_numpy(percent, normal):
    low, high = feed(Percentile(percent), normal).range()
    assert [low, high] == pytest.approx(np.percentile(normal, [100 - percent, percent]), abs=0.02)


def test_percentile_does_not_depend_on_the_order_of_growth(normal):
    growing = np.sort(np.abs(normal))
    _, high = feed(Percentile(), growing, batches=50).range()
    assert high == pytest.approx(np.percentile(growing, 99.99), rel=0.01)


def test_percentile_drops_a_lone_outlier(normal):
    _, high = feed(Percentile(), np.append(normal, np.float32(1e6))).range()
    assert high < 2000.0  # one or two bins of a histogram that reaches 1e6
    assert feed(Percentile(100.0), np.append(normal, np.float32(1e6))).range()[1] == 1e6


@pytest.mark.parametrize("bits", [4, 8])
def test_mse_beats_min_max_and_percentile_on_heavy_tails(bits, heavy):
    ranges = [
        feed(range_estimator(method, bits), heavy).range() for method in ("mse", "minmax", "percentile")
    ]
    mse, minmax, percentile = [quantization_error(heavy, low, high, bits) for low, high in ranges]
    assert mse < 0.6 * minmax
    assert mse < 0.6 * percentile


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [lambda x: x, lambda x: np.maximum(x, 0), lambda x: x + np.float32(1.5)])
def test_mse_predicts_the_error_that_it_minimises(bits, shape, normal):
    data = shape(normal)
    estimator = feed(MeanSquaredError(bits), data)
    low, high = estimator.range()
    predicted = estimator.errors(np.array([low]), np.array([high]))[0]
    assert predicted == pytest.approx(quantization_error(data, low, high, bits), rel=0.05)


def test_mse_finds_the_best_symmetric_clipping_of_a_normal(normal):
    # The optimum for 4 bits lies near 2.5 standard deviations.
    low, high = feed(MeanSquaredError(4), normal).range()
    tried = np.linspace(1.5, 5, 36)
    best = min(quantization_error(normal, -bound, bound, 4) for bound in tried)
    assert quantization_error(normal, low, high, 4) < 1.02 * best


def test_growth_keeps_every_count():
    data = [np.full(10, value, np.float32) for value in (0.0, 0.5, -3.0, 100.0, 0.0)]
    histogram = Histogram()
    for part in data:
        histogram.update(part)
    assert histogram.counts.sum() == 50
    assert histogram.limit == 128.0
    lower_edges = np.repeat(histogram.edges[:-1], histogram.counts)
    assert lower_edges == pytest.approx(np.sort(np.concatenate(data)), abs=2 * 128.0 / 2048)


def test_counts_agree_with_numpy_without_growth(normal):
    histogram = Histogram()
    histogram.update(normal)
    counted, _ = np.histogram(normal, histogram.edges)
    assert np.abs(histogram.counts - counted).sum() < 1e-3 * normal.size  # float32 at the edges of bins


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    def test_one_sided_data_starts_at_zero(self, method, normal):
        low, high = feed(range_estimator(method, 8), np.maximum(normal, 0)).range()
        assert low == 0.0
        assert 3.5 < high <= normal.max()

    def test_negative_data_ends_at_zero(self, method, normal):
        low, high = feed(range_estimator(method, 8), -np.abs(normal) - 1).range()
        assert high == 0.0
        assert low < -4.5

    def test_data_far_from_zero_still_has_zero_in_range(self, method):
        low, high = feed(range_estimator(method, 8), np.linspace(5, 6, 1000, dtype=np.float32)).range()
        assert low == 0.0
        assert high == pytest.approx(6.0, rel=0.01)

    def test_all_zero(self, method):
        assert feed(range_estimator(method, 8), np.zeros((4, 3))).range() == (0.0, 0.0)

    def test_no_data(self, method):
        estimator = range_estimator(method, 8)
        estimator.update(np.zeros((0, 3), np.float32))
        assert estimator.range() == (0.0, 0.0)

    @pytest.mark.parametrize("magnitude", [1e-42, 1e-30, 1e30, 3e38])
    def test_extreme_magnitudes(self, method, magnitude, normal):
        data = (normal[:1000] / np.abs(normal[:1000]).max()).astype(np.float64) * magnitude
        low, high = feed(range_estimator(method, 8), data).range()
        assert -1.01 * magnitude <= low < 0 < high <= 1.01 * magnitude

    def test_values_that_are_not_finite_are_counted_and_left_out(self, method):
        estimator = range_estimator(method, 8)
        estimator.update(np.array([1.0, np.nan, -np.inf, 2.0], np.float32))
        assert estimator.skipped == 2
        assert estimator.range() == pytest.approx((0.0, 2.0), rel=0.01)

    def test_half_precision_and_integers(self, method):
        for dtype in (np.float16, np.float64, np.int64):
            estimator = feed(range_estimator(method, 8), np.arange(-50, 100).astype(dtype))
            assert estimator.range() == pytest.approx((-50, 99), rel=0.05)


def test_refuses_an_unknown_method():
    with pytest.raises(ValueError, match="one of minmax, percentile, mse, not 'entropy'"):
        range_estimator("entropy", 8)
