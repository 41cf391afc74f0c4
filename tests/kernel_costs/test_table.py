"""Predictions: entries come back, more work takes longer, unaligned channels cost what was measured."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from getac.kernel_costs import Kind, LayerShape, Strategy, default_table
from getac.kernel_costs.table import Grid, Steps

TABLE = default_table()
BOTH = (Strategy.FLOAT, Strategy.INTEGER)


def steps(seconds, channels=(48, 49, 50, 52, 56, 60, 64), kind=Kind.CONVOLUTION):
    return Steps(kind, channels, seconds)


@pytest.mark.parametrize(("kind", "strategy"), TABLE.grids, ids=str)
def test_an_entry_is_predicted_as_it_was_measured(kind, strategy):
    grid = TABLE.grids[kind, strategy]
    for channels, row in zip(grid.channels, grid.seconds, strict=True):
        for positions, seconds in zip(grid.positions, row, strict=True):
            shape = LayerShape.square(kind, channels, positions)
            assert TABLE.seconds(shape, strategy) == pytest.approx(max(seconds, TABLE.node))


@pytest.mark.parametrize(("kind", "strategy"), TABLE.grids, ids=str)
def test_more_work_takes_longer(kind, strategy):
    def seconds(channels, positions):
        return TABLE.seconds(LayerShape.square(kind, channels, positions), strategy)

    for positions in (1, 30, 100, 3000, 30000):
        times = [seconds(channels, positions) for channels in range(16, 2048, 16)]
        assert all(a <= b * (1 + 1e-9) for a, b in itertools.pairwise(times))
    for channels in (16, 48, 256, 2048):
        times = [seconds(channels, positions) for positions in range(1, 20000, 97)]
        assert all(a <= b * (1 + 1e-9) for a, b in itertools.pairwise(times))


def test_between_entries_the_rate_is_between_theirs():
    grid = Grid(Kind.LINEAR, (16, 64), (1, 100), [[16**2 * 1e-9, 16**2 * 1e-9], [64**2 * 4e-9, 64**2 * 4e-9]])
    assert grid.rate(16, 1) == pytest.approx(1e-9)
    assert grid.rate(32, 1) == pytest.approx(2e-9)  # halfway in the logarithm
    assert grid.rate(64, 1) == pytest.approx(4e-9)
    assert grid.rate(64, 100) == pytest.approx(4e-11)  # 100 times the work in the same time
    assert grid.rate(1000, 1) == grid.rate(64, 1) and grid.rate(1, 1) == grid.rate(16, 1)


def test_outside_of_the_entries_time_is_in_proportion():
    wide, wider = (LayerShape(channels, channels, 784, 9) for channels in (256, 1024))
    for strategy in BOTH:
        assert TABLE.seconds(wider, strategy) == pytest.approx(16 * TABLE.seconds(wide, strategy))


def test_nothing_is_quicker_than_a_node():
    assert TABLE.seconds(LayerShape(16, 16, 1, 1), Strategy.FLOAT) == TABLE.node


@pytest.mark.parametrize(
    ("kind", "strategy", "multiple"),
    [
        (Kind.CONVOLUTION, Strategy.INTEGER, 4),
        (Kind.CONVOLUTION, Strategy.FLOAT, 16),
        (Kind.POINTWISE, Strategy.INTEGER, 4),
        (Kind.STEM, Strategy.FLOAT, 16),
        (Kind.DEPTHWISE, Strategy.INTEGER, 16),
        (Kind.DEPTHWISE, Strategy.FLOAT, 16),
        (Kind.LINEAR, Strategy.INTEGER, 1),
        (Kind.LINEAR, Strategy.FLOAT, 1),
        (Kind.LINEAR, Strategy.WEIGHT_ONLY_4, 1),
        (Kind.CONVOLUTION, Strategy.FOLDED, 16),
    ],
)
def test_what_the_default_machine_likes(kind, strategy, multiple):
    assert TABLE.multiple(kind, strategy) == multiple


@pytest.mark.parametrize(
    ("seconds", "multiple"),
    [
        ((48, 49, 50, 52, 56, 60, 64), 1),  # smooth
        ((48, 90, 50, 52, 56, 60, 64), 2),
        ((48, 90, 90, 52, 56, 60, 64), 4),
        ((48, 90, 90, 90, 56, 90, 64), 8),
        ((48, 50, 50, 50, 90, 50, 64), 16),  # multiples of 4 that are none of 8 do not count alone
        ((36, 64, 64, 64, 64, 64, 64), 16),  # in steps of 16: no harm, and nothing gained
        ((36, 60, 40, 42, 50, 57, 64), 2),
    ],
)
def test_a_multiple_wastes_little_against_the_straight_line(seconds, multiple):
    assert steps(seconds).multiple == multiple


def test_unaligned_channels_count_as_padded_ones_times_what_was_measured():
    table = replace(
        TABLE,
        steps={**TABLE.steps, (Kind.CONVOLUTION, Strategy.INTEGER): steps((48, 96, 80, 52, 56, 60, 64))},
    )

    def seconds(channels):
        return table.seconds(LayerShape(channels, channels, 784, 9), Strategy.INTEGER)

    assert seconds(61) == pytest.approx(seconds(64) * 96 / 64)
    assert seconds(62) == pytest.approx(seconds(64) * 80 / 64)
    assert seconds(60) < seconds(61) and seconds(60) < seconds(64)


@pytest.mark.parametrize("kind", Kind)
def test_fewer_than_16_channels_gain_nothing(kind):
    few, some = (LayerShape.square(kind, channels, 784) for channels in (8, 16))
    for strategy in BOTH:
        assert TABLE.seconds(few, strategy) >= TABLE.seconds(some, strategy)


def test_one_unaligned_side_is_enough():
    aligned, odd = (LayerShape(64, channels, 784, 9) for channels in (64, 61))
    assert TABLE.seconds(odd, Strategy.INTEGER) > 1.2 * TABLE.seconds(aligned, Strategy.INTEGER)


def test_linear_layers_of_any_width_are_in_proportion():
    odd, even = (LayerShape(768, width, 128) for width in (767, 768))
    assert TABLE.seconds(odd, Strategy.INTEGER) == pytest.approx(
        TABLE.seconds(even, Strategy.INTEGER), rel=0.01
    )


@pytest.mark.parametrize(
    ("shape", "kind", "macs"),
    [
        (LayerShape(64, 32, 100, 9), Kind.CONVOLUTION, 64 * 32 * 9 * 100),
        (LayerShape(64, 32, 100, 1), Kind.POINTWISE, 64 * 32 * 100),
        (LayerShape(64, 64, 100, 9, 64), Kind.DEPTHWISE, 64 * 9 * 100),
        (LayerShape(64, 128, 100, 9, 64), Kind.DEPTHWISE, 128 * 9 * 100),
        (LayerShape(64, 64, 100, 9, 4), Kind.CONVOLUTION, 16 * 64 * 9 * 100),
        (LayerShape(3, 32, 100, 9), Kind.STEM, 3 * 32 * 9 * 100),
        (LayerShape(3, 32, 100, 49), Kind.LARGE_STEM, 3 * 32 * 49 * 100),
        (LayerShape(768, 3072, 128), Kind.LINEAR, 768 * 3072 * 128),
    ],
)
def test_what_kind_a_layer_is_of(shape, kind, macs):
    assert (shape.kind, shape.macs) == (kind, macs)


def test_folded_weights_run_on_the_kernels_of_floats():
    shape = LayerShape(64, 64, 784, 9)
    assert TABLE.seconds(shape, Strategy.FOLDED) == TABLE.seconds(shape, Strategy.FLOAT)
    assert TABLE.has(Kind.CONVOLUTION, Strategy.FOLDED)


def test_a_strategy_that_a_kind_does_not_have():
    assert not TABLE.has(Kind.CONVOLUTION, Strategy.WEIGHT_ONLY_4)
    with pytest.raises(KeyError):
        TABLE.seconds(LayerShape(64, 64, 784, 9), Strategy.WEIGHT_ONLY_4)


def test_integers_pay_on_the_default_machine_where_kernels_are_large():
    shape = LayerShape(256, 256, 196, 9)
    ratio = TABLE.seconds(shape, Strategy.FLOAT) / TABLE.seconds(shape, Strategy.INTEGER)
    assert 2 < ratio < 8 and math.isfinite(ratio)
