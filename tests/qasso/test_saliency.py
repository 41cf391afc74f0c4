"""Saliencies against loops over units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx

from getac.errors import BadInputError, OptionError
from getac.kernel_costs import default_table
from getac.qasso.costs import bops_of, latency_of, macs_of
from getac.qasso.saliency import SALIENCIES, per_cost, score_units
from getac.qasso.units import UnitTable
from tests.qasso.nets import Attention, group, prepared, table_of, with_gradients

SLOW: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "magnitude": lambda x, g: x.norm(),
    "average_magnitude": lambda x, g: x.square().mean().sqrt(),
    "cosine": lambda x, g: 1 - x @ g / (x.norm() * g.norm()),
    "taylor": lambda x, g: (x @ g).abs(),
    "taylor2": lambda x, g: (x * g).square().sum() / 2,
}


def slow_scores(table: UnitTable, name: str) -> Tensor:
    scores = []
    for unit in range(table.size):
        pairs = [(e.parameter.detach()[mask], e.parameter.grad[mask]) for e, mask in group(table, unit)]  # type: ignore[index]
        scores.append(SLOW[name](*(torch.cat(parts).double() for parts in zip(*pairs, strict=True))))
    return torch.stack(scores)


def case(which: str) -> tuple[fx.GraphModule, UnitTable]:
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    module = with_gradients(prepared()) if which == "conv" else with_gradients(prepared(Attention(), x), x)
    return module, table_of(module)


@pytest.mark.parametrize("which", ["conv", "attention"])
@pytest.mark.parametrize("name", SLOW)
def test_equals_a_loop(which: str, name: str) -> None:
    _, table = case(which)
    torch.testing.assert_close(
        score_units(table, name).double(), slow_scores(table, name), rtol=1e-4, atol=1e-5
    )


def test_the_mixture() -> None:
    _, table = case("conv")
    parts = []
    for name in ("magnitude", "average_magnitude"):
        scores = slow_scores(table, name)
        for one in (table.units_of(0), table.units_of(1)):
            scores[one] /= scores[one].mean()
        parts.append(scores)
    parts += [slow_scores(table, name) / slow_scores(table, name).mean() for name in ("taylor", "taylor2")]
    expected = torch.stack([*parts, slow_scores(table, "cosine")]).mean(0)
    torch.testing.assert_close(score_units(table).double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SALIENCIES)
def test_without_gradients_and_with_zeros(name: str) -> None:
    module = prepared()
    table = table_of(module)
    assert score_units(table, name).isfinite().all()
    for rows in table.rows(torch.arange(table.size)):
        rows.fill(rows.entry.parameter)
    assert score_units(table, name).isfinite().all()


def test_zero_units_matter_least() -> None:
    _, table = case("conv")
    for rows in table.rows(torch.tensor([3, 9])):
        rows.fill(rows.entry.parameter)
    for name in ("magnitude", "average_magnitude", "taylor", "taylor2"):
        scores = score_units(table, name)
        assert (scores[[3, 9]] == 0).all() and (scores > 0).sum() == table.size - 2


def test_per_cost() -> None:
    _, table = case("conv")
    costs = macs_of(table)
    assert set(costs) == {"c0", "c1"} and all(cost > 0 for cost in costs.values())
    scores, divided = score_units(table, "magnitude"), score_units(table, "magnitude", costs)
    each = torch.tensor([costs["c0"]] * 8 + [costs["c1"]] * 12)
    torch.testing.assert_close(divided, scores * each.mean() / each)
    rooted = score_units(table, "magnitude", costs, 0.5)
    torch.testing.assert_close(rooted, scores * (each.mean() / each).sqrt())
    torch.testing.assert_close(score_units(table, "magnitude", costs, 0.0), scores)
    latency = score_units(table, "magnitude", {"c0": 0.0, "c1": 2e-6})  # c0 saves nothing: it goes last
    assert latency[:8].isinf().all() and latency[8:].isfinite().all()


def test_bit_operations_and_predicted_seconds_of_a_unit() -> None:
    _, table = case("conv")
    macs, bops, seconds = macs_of(table), bops_of(table), latency_of(table)
    assert macs.keys() == bops.keys() == seconds.keys() == {"c0", "c1"}
    assert all(4 * macs[name] <= bops[name] <= 1024 * macs[name] for name in macs)
    assert all(0 <= one < 1e-3 for one in seconds.values())
    slow = replace(default_table(), node=1.0)  # every layer takes a second, whatever its size
    assert latency_of(table, slow) == {"c0": 0.0, "c1": 0.0}


def test_a_function_of_the_user() -> None:
    module, table = case("conv")
    seen = []

    def mine(units: UnitTable, of: torch.nn.Module) -> Tensor:
        seen.append((units, of))
        return torch.arange(units.size).float()

    assert score_units(table, mine).tolist() == list(range(20)) and seen == [(table, module)]


def test_whole_numbers_of_the_user_are_weighed_as_well() -> None:
    _, table = case("conv")
    ranks = score_units(table, lambda table, _: torch.arange(table.size), {"c0": 1.0, "c1": 1.0})
    assert ranks.tolist() == list(range(20))
    flags = score_units(table, lambda table, _: table.class_of > 0, {"c0": 1.0, "c1": 4.0})
    assert flags.tolist() == pytest.approx([0.0] * 8 + [2.8 / 4] * 12)


def test_gradients_of_sparse_embeddings() -> None:
    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.a = torch.nn.Embedding(20, 16, sparse=True), torch.nn.Linear(16, 16)
            self.b = torch.nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(self.e(x).mean(1))))  # type: ignore[no-any-return]

    x = torch.randint(20, (4, 3), generator=torch.Generator().manual_seed(0))
    module = with_gradients(prepared(Tokens(), x), x)
    weight, table = module.get_parameter("e.weight"), table_of(module)
    assert weight.grad is not None and weight.grad.is_sparse
    found = {name: score_units(table, name) for name in SALIENCIES}
    weight.grad = weight.grad.to_dense()
    for name, scores in found.items():
        assert torch.equal(scores, score_units(table, name))


def test_refuses() -> None:
    _, table = case("conv")
    with pytest.raises(OptionError, match="no saliency 'weight'") as error:
        score_units(table, "weight")
    assert "mixed" in str(error.value)
    with pytest.raises(BadInputError, match="not one number per unit") as bad:
        score_units(table, lambda table, module: torch.zeros(3))
    assert bad.value.found == "shape (3,)" and bad.value.required == "a tensor of shape (20,)"
    with pytest.raises(BadInputError, match="not one number per unit"):
        score_units(table, lambda table, module: [1.0])  # type: ignore[arg-type, return-value]
    with pytest.raises(BadInputError, match="NaN") as nan:
        score_units(table, lambda table, module: torch.full((20,), torch.nan))
    assert nan.value.found == "NaN in c0, c1"
    for costs, found in (({"c0": 1.0}, "none for c1"), ({"c0": 0.0, "c1": 0.0}, "no positive cost")):
        with pytest.raises(BadInputError, match="costs do not fit") as wrong:
            per_cost(torch.ones(20), table, costs)
        assert wrong.value.found == found
