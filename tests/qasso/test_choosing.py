"""Which units go: least salient first, aligned, exactly as many as planned."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from getac.analyzing import analyze
from getac.errors import BadInputError, OptionError
from getac.qasso.choosing import choose_units, multiples_of, plan_target
from getac.qasso.units import UnitTable
from getac.units.unit_blocks import Blocks, nearest, pick, reachable, steps_of
from tests.qasso.nets import prepared, table_of


def test_steps_keep_counts_aligned() -> None:
    assert steps_of(61, 4, 1).tolist() == [1] + [4] * 14
    assert steps_of(64, 4, 1).tolist() == [4] * 15
    assert steps_of(5, 1, 2).tolist() == [1, 1, 1]
    assert steps_of(16, 4, 5).tolist() == [4, 4]
    assert steps_of(3, 4, 1).tolist() == [] and steps_of(1, 1, 1).tolist() == []


@pytest.mark.parametrize("seed", range(30))
def test_reachable_totals_and_the_exact_choice_against_all_combinations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes, multiples = rng.integers(2, 14, 3).tolist(), rng.choice([1, 2, 3, 4], 3).tolist()
    steps = [steps_of(size, multiple, 1) for size, multiple in zip(sizes, multiples, strict=True)]
    sums = [[0, *np.cumsum(step).tolist()] for step in steps]
    totals = {sum(one) for one in itertools.product(*sums)}
    most = max(totals)
    assert {i for i in range(most + 1) if reachable(steps, most) >> i & 1} == totals
    for wanted in range(most + 1):
        expected = min(totals, key=lambda total: (abs(total - wanted), total))
        assert nearest(reachable(steps, most), wanted) == expected
    offsets = np.cumsum([0, *sizes])
    live = [np.arange(a, b) for a, b in itertools.pairwise(offsets)]
    for total in sorted(totals):
        blocks = Blocks.of(live, rng.random(offsets[-1]), multiples, 1)
        taken = blocks.units_in(pick(blocks, total, total))
        assert len(taken) == len(set(taken.tolist())) == total
        for units, multiple in zip(live, multiples, strict=True):
            left = len(np.setdiff1d(units, taken))
            assert left == len(units) or (left % multiple == 0 and left > 0)


@pytest.mark.parametrize("seed", range(20))
def test_periods_end_at_the_planned_number(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes, multiples = rng.integers(2, 40, 5).tolist(), rng.choice([1, 2, 4, 8, 16], 5).tolist()
    offsets, periods = np.cumsum([0, *sizes]), 4
    live = [np.arange(a, b) for a, b in itertools.pairwise(offsets)]
    steps = [steps_of(size, multiple, 1) for size, multiple in zip(sizes, multiples, strict=True)]
    most = sum(int(step.sum()) for step in steps)
    final = nearest(reachable(steps, most), most // 2)
    gone = 0
    for period in range(periods):
        blocks = Blocks.of(live, rng.random(offsets[-1]), multiples, 1)
        taken = blocks.units_in(pick(blocks, round(final * (period + 1) / periods) - gone, final - gone))
        gone += len(taken)
        assert gone <= round(final * (period + 1) / periods)
        live = [np.setdiff1d(units, taken) for units in live]
    assert gone == final


def test_the_least_salient_of_all_never_a_whole_class() -> None:
    table = table_of(prepared())  # 8 and 12 units
    scores = torch.arange(20.0)
    assert choose_units(table, scores, 5).tolist() == [0, 1, 2, 3, 4]
    assert choose_units(table, scores, 9).tolist() == [*range(7), 8, 9]  # 7 is the last of its class
    assert choose_units(table, scores, 9, minimum=3).tolist() == [*range(5), *range(8, 12)]
    gone = torch.zeros(20, dtype=torch.bool)
    gone[[0, 1, 9]] = True
    assert choose_units(table, scores, 6, gone=gone).tolist() == [2, 3, 4, 5, 6, 8]
    scores[[3, 4]] = torch.inf  # classes that save nothing
    assert choose_units(table, scores, 4).tolist() == [0, 1, 2, 5]


def test_alignment() -> None:
    table = table_of(prepared())
    multiples = multiples_of(table, 4)
    assert list(multiples.values()) == [4, 4]
    target = plan_target(table, 0.5, multiples)
    assert (target.units, target.wanted, target.reached, target.sparsity) == (20, 10, 8, 0.4)
    chosen = choose_units(table, torch.arange(20.0), target.reached, multiples=multiples)
    assert chosen.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    scores = torch.arange(20.0).flip(0)
    assert choose_units(table, scores, 8, multiples=multiples).tolist() == [*range(12, 20)]
    assert choose_units(table, scores, 3, 8, multiples=multiples).tolist() == []  # no block fits yet
    assert choose_units(table, scores, 6, 8, multiples=multiples).tolist() == [16, 17, 18, 19]
    assert plan_target(table, 0.5, multiples_of(table, 1)).reached == 10
    # by default a depthwise layer likes 16 channels: its class of 8 stays whole; the other has multiples of 4
    assert plan_target(table, 0.25, multiples_of(table)).reached == 4


def test_a_linear_layer_is_aligned_on_request() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 12), torch.nn.ReLU(), torch.nn.Linear(12, 2))
    table = table_of(prepared(model, torch.randn(2, 3)))
    assert list(multiples_of(table, 4).values()) == [4] and list(multiples_of(table).values()) == [1]


def test_nothing_to_do() -> None:
    table = table_of(prepared())
    target = plan_target(table, 0.0)
    assert target.reached == 0 and choose_units(table, torch.zeros(20), 0).tolist() == []


def test_what_cannot_be_reached_names_classes_and_reasons() -> None:
    module = prepared()
    table = table_of(module)
    with pytest.raises(BadInputError, match=r"sparsity of 0.95 cannot be reached") as error:
        plan_target(table, 0.95)
    assert error.value.where == "c0 (8 channels of the model), c1 (12 channels of b)"
    assert error.value.required == "19 units that may go"
    assert error.value.found is not None
    assert error.value.found.startswith("20 open units in 2 classes, of which 18 may go; frozen axes: ")
    assert "a graph input" in error.value.found
    with pytest.raises(BadInputError, match="cannot be reached") as aligned:
        plan_target(table, 0.5, multiples_of(table, 8))
    assert "of which 4 may go" in str(aligned.value)
    closed = UnitTable.of(module, analyze(module, keep=["*"]))
    assert plan_target(closed, 0.5).reached == 0  # a share of no units


@pytest.mark.parametrize(("sparsity", "minimum"), [(1.0, 1), (-0.1, 1), (float("nan"), 1), (0.5, 0)])
def test_refuses_options(sparsity: float, minimum: int) -> None:
    with pytest.raises(OptionError):
        plan_target(table_of(prepared()), sparsity, minimum=minimum)
