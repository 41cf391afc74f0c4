"""Which units go: least salient first, aligned, exactly as many as planned."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from getac.analyzing import analyze
from getac.errors import BadInputError, OptionError
from getac.qasso.choosing import choose_units, multiples_of, plan_target
from getac.qasso.costs import COSTS, bops_of, latency_of, macs_of
from getac.qasso.geta import GETA
from getac.qasso.pruning import Pruning
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


def chosen(table: UnitTable, amount: int, **options: Any) -> list[int]:
    """How many units each class loses if all units are equally salient."""
    pruning = Pruning(0.5, align=1, saliency=lambda table, _: torch.ones(table.size), **options)
    units = pruning.choose(table, amount, amount, torch.zeros(table.size, dtype=torch.bool))
    return table.class_of[units].bincount(minlength=len(table.classes)).tolist()


class Layers(nn.Module):
    """Two equal layers in a row; the weights of the second have the bits that are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(12, 12) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(F.relu(self.a(x)))
        return self.d(F.relu(self.c(F.relu(h))))  # type: ignore[no-any-return]


def test_costs_decide_which_units_go() -> None:
    table = table_of(prepared())  # c0: 8 channels of 3024 MACs, c1: 12 of 1157
    assert chosen(table, 6, cost="macs") == [6, 0]
    assert chosen(table, 6, cost={"c0": 1.0, "c1": 2.0}) == [0, 6]
    assert chosen(table, 6, cost={"c0": 2.0, "c1": 1.0}) == [6, 0]
    assert chosen(table, 9, cost={"c0": 0.0, "c1": 1.0}) == [0, 9]  # what saves nothing goes last
    assert chosen(table, 12, cost={"c0": 0.0, "c1": 1.0}) == [1, 11]


def test_bit_operations_depend_on_the_bits_of_each_layer() -> None:
    def table(**bits: int) -> UnitTable:
        overrides = {f"{name}.weight": own for name, own in bits.items()}
        options = {"weight_bits": 8, "activation_bits": 8, "overrides": overrides}
        return table_of(prepared(Layers(), torch.randn(4, 12), **options))

    for bits, expected in (({"b": 2, "c": 8}, [0, 0, 6]), ({"b": 8, "c": 2}, [6, 0, 0])):
        found = table(**bits)
        assert [one.size for one in found.classes] == [12, 12, 12]
        macs, bops = macs_of(found), bops_of(found)
        assert len(set(macs.values())) == 1  # by these, all are equal
        of = {name: 12 * 8 * width for name, width in ({"a": 8, "d": 8} | bits).items()}
        assert list(bops.values()) == [of["a"] + of["b"], of["b"] + of["c"], of["c"] + of["d"]]
        assert chosen(found, 6, cost="bops") == expected


def test_predicted_seconds_decide_which_units_go(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(prepared())
    seconds = latency_of(table)
    assert seconds["c0"] > 0 == seconds["c1"]
    assert chosen(table, 6, cost="latency") == [6, 0]
    monkeypatch.setitem(COSTS, "latency", lambda _: {"c0": 1e-6, "c1": 2e-6})
    assert chosen(table, 6, cost="latency") == [0, 6]


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_saliency_and_cost_are_weighed(exponent: float) -> None:
    table = table_of(prepared())

    def scores(table: UnitTable, _: nn.Module) -> Tensor:
        return torch.where(table.class_of == 0, 3.0, 1.0)

    pruning = Pruning(0.5, align=1, saliency=scores, cost={"c0": 4.0, "c1": 1.0}, cost_exponent=exponent)
    units = pruning.choose(table, 1, 1, torch.zeros(20, dtype=torch.bool))
    assert int(table.class_of[units]) == (1 if exponent == 0.5 else 0)  # 3 / 2 or 3 / 4, against 1


def test_costs_that_save_nothing_are_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(prepared())
    nothing = {"c0": 0.0, "c1": 0.0}
    with pytest.raises(OptionError, match="saves nothing") as error:
        Pruning(0.5, align=1, cost=nothing).plan(table)
    assert error.value.found == "0 for each of c0, c1"
    monkeypatch.setitem(COSTS, "latency", lambda _: nothing)
    with pytest.raises(OptionError, match="saves nothing") as error:
        Pruning(0.5, align=1, cost="latency").plan(table)
    assert error.value.where == "cost='latency'" and "macs" in str(error.value.hint)
    assert Pruning(0.0, align=1, cost="latency").plan(table).reached == 0
    # in a training, what is left may become that small: all are equal then
    assert chosen(table, 6, cost="latency") == chosen(table, 6)


def test_a_layer_too_small_to_save_time_is_refused_by_geta() -> None:
    torch.manual_seed(0)
    small, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(8, 4)
    with pytest.raises(OptionError, match="cost='latency'"):
        GETA(small, x, calibration=[x], align=1, cost="latency")
