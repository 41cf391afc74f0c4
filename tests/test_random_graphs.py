"""The law on random networks: whatever units go, the sliced model computes what the masked one does.

`python -m tools.fuzz_graphs` tries thousands.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest

from tools.double_precision import DOUBLE_TOLERANCE, opened_in_double
from tools.fuzz_graphs import TOLERANCE, summary
from tools.law import Outcome, check_dead, check_law
from tools.random_graphs import STEPS, random_graph

BATCHES, PER_BATCH = 40, 50
CANCELLING = (90134, 900313)  # their float32 differences are 1.5e-4 and 8e-5
FLOAT32_NOISE = 1e-5  # relative to the largest output; the same seeds give the same graphs everywhere


@cache
def outcome_of(seed: int) -> Outcome:
    return check_law(random_graph(seed), seed)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_masked_equals_sliced(batch: int) -> None:
    for seed in range(batch * PER_BATCH, (batch + 1) * PER_BATCH):
        outcome = outcome_of(seed)
        assert outcome.difference <= FLOAT32_NOISE, f"seed {seed}: {outcome}"


@pytest.mark.parametrize("seed", [*range(25), *CANCELLING])
def test_in_float64_the_difference_vanishes(seed: int) -> None:
    outcome = check_law(random_graph(seed), seed, opened_in_double)
    assert outcome.difference <= DOUBLE_TOLERANCE, outcome


@pytest.mark.parametrize("batch", range(2))
def test_dead_units_go_and_the_function_stays(batch: int) -> None:
    for seed in range(batch * PER_BATCH, (batch + 1) * PER_BATCH):
        outcome = check_dead(random_graph(seed), seed)
        assert outcome.difference <= TOLERANCE, f"seed {seed}: {outcome}"


def test_most_graphs_lose_much() -> None:
    """The law would hold in vain if nothing were open."""
    found = [outcome_of(seed) for seed in range(40)]
    pruned = [one for one in found if one.removed]
    assert len(pruned) >= 0.85 * len(found), summary(found, 0)
    assert np.mean([one.stored for one in pruned]) >= 0.3
    assert np.mean([one.classes for one in pruned]) >= 3


def test_the_same_seed_grows_the_same_graph() -> None:
    assert random_graph(3).SerializeToString() == random_graph(3).SerializeToString()
    assert random_graph(3).SerializeToString() != random_graph(4).SerializeToString()


def test_random_graphs_use_many_operators() -> None:
    found = {node.op_type for seed in range(60) for node in random_graph(seed).graph.node}
    assert len(found) >= 45
    assert sum(map(len, STEPS.values())) >= 50


def test_random_graphs_are_valid() -> None:
    for seed in range(10):
        onnx.checker.check_model(random_graph(seed))
