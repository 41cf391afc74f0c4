"""What units cost in seconds: in proportion to what they run through, in both graphs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import getac
from getac.axes.axis import atom
from getac.kernel_costs import Kind, LayerShape, Strategy, default_table
from getac.units.unit_seconds import half_of, seconds_per_unit
from tests.kernel_costs.tables import with_factor


@pytest.fixture(scope="module")
def analysis():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 32, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 64, 10))
    return getac.analyze(net, (torch.zeros(2, 3, 8, 8),))


def test_the_mean_over_half_of_a_class(analysis):
    table = default_table()

    def seconds(channels):
        first, second = LayerShape(3, channels, 64, 9), LayerShape(channels, 32, 64, 9)
        return table.seconds(first, Strategy.INTEGER) + table.seconds(second, Strategy.INTEGER)

    first = analysis.classes[0]
    assert first.size == 64
    expected = (seconds(64) - seconds(32)) / 32
    assert seconds_per_unit(analysis)[first.name] == pytest.approx(expected)


def test_floats_and_another_table(analysis):
    name = analysis.classes[0].name
    slow = default_table()
    for kind in (Kind.CONVOLUTION, Kind.STEM):
        slow = with_factor(slow, kind, Strategy.FLOAT, 10)
    floats = seconds_per_unit(analysis, integer=False)[name]
    assert seconds_per_unit(analysis, slow, integer=False)[name] == pytest.approx(10 * floats)
    assert seconds_per_unit(analysis, slow)[name] == seconds_per_unit(analysis)[name]


def test_every_class_has_a_number(analysis):
    found = seconds_per_unit(analysis)
    assert list(found) == [one.name for one in analysis.classes]
    assert all(seconds > 0 for seconds in found.values())


@pytest.mark.parametrize(("size", "kept"), [(2, 1), (3, 1), (24, 12), (40, 16), (64, 32), (100, 48)])
def test_half_of_a_class_is_aligned(analysis, size, kept):
    (mask,) = half_of(replace(analysis.classes[0], atom=atom(size))).values()
    assert (mask.size, np.flatnonzero(mask).tolist()) == (size, list(range(kept)))
