"""Masked equals sliced on random networks."""

from __future__ import annotations

import pytest
import torch

from tools.double_precision import DOUBLE_TOLERANCE
from tools.fx_law import difference, outputs_of
from tools.random_modules import TOLERANCE, check, random_module

pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")

NETWORKS, BLOCK = 200, 20


@pytest.mark.parametrize("first", range(0, NETWORKS, BLOCK))
def test_masked_equals_sliced(first: int) -> None:
    removed = 0
    for seed in range(first, first + BLOCK):
        outcome = check(seed)
        assert outcome.difference <= TOLERANCE, seed
        assert outcome.analysis.opaque == [], seed
        removed += outcome.removed
    assert removed > 10 * BLOCK


def test_in_float64_the_difference_vanishes() -> None:
    for seed in range(8):
        assert check(seed, double=True).difference <= DOUBLE_TOLERANCE, seed


def test_the_same_seed_gives_the_same_network() -> None:
    (one, x), (other, y) = random_module(7), random_module(7)
    assert torch.equal(x, y)
    assert difference(outputs_of(one, (x,), {}), outputs_of(other, (y,), {})) == 0
