"""Gradients that are not finite are found, and named with their layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import getac
from getac.errors import BadInputError, GetacError


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sqrt(self.second(self.first(x).relu()) * 0)  # its slope at 0 is infinite
        return self.third(y)  # type: ignore[no-any-return]


def trained(x: Tensor) -> torch.fx.GraphModule:
    torch.manual_seed(0)
    module = getac.prepare(Deep(), (x,), calibration=[torch.randn(8, 4)])
    module(x).sum().backward()
    return module


def test_finite_gradients_pass() -> None:
    module = getac.capture(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), (torch.randn(3, 4),))
    getac.check_gradients(module)  # none yet
    module(torch.randn(3, 4)).sum().backward()
    getac.check_gradients(module)


def test_the_layer_that_backward_reached_first_is_named() -> None:
    module = trained(torch.randn(3, 4))
    bad = [name for name, p in module.named_parameters() if p.grad is not None and p.grad.isnan().any()]
    assert {name.partition(".")[0] for name in bad} >= {"first", "second"}
    assert not any(name.startswith("third.") for name in bad)
    with pytest.raises(GetacError, match="a gradient is not finite") as caught:
        getac.check_gradients(module)
    where = str(caught.value.where)
    assert where.startswith("second.") and "linear_1" in where and "(second)" in where
    assert f"NaN or infinity in {len(bad)} of them" in str(caught.value.found)
    assert "GradScaler" in str(caught.value.hint)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_quantizer_of_a_layer_is_named(value: float) -> None:
    module = getac.prepare(Deep(), (torch.rand(3, 4),), calibration=[torch.rand(8, 4)])
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for name in ("first.weight_quantizer.q_m", "x_quantizer.d"):
        found = module.get_parameter(name)
        found.grad = torch.full_like(found, value)
    with pytest.raises(GetacError) as caught:
        getac.check_gradients(module)
    assert "first.weight_quantizer.q_m, read by" in str(caught.value.where)
    assert "x_quantizer.d" in str(caught.value.found)


def test_any_module_will_do_and_sparse_gradients() -> None:
    table = nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1, 1, 4])).sum().backward()
    getac.check_gradients(table)
    (table(torch.tensor([2])) * float("nan")).sum().backward()
    with pytest.raises(GetacError) as caught:
        getac.check_gradients(table)
    assert caught.value.where == "weight"


def test_of_many_only_some_are_listed() -> None:
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    with pytest.raises(GetacError) as caught:
        getac.check_gradients(net)
    assert "8 of them" in str(caught.value.found) and str(caught.value.found).endswith("2.weight, ...")


@pytest.mark.parametrize("name", ["first.weight", "second.bias"])
def test_a_parameter_that_is_not_finite_is_to_blame_itself(name: str) -> None:
    module = getac.prepare(Deep(), (torch.rand(3, 4),), calibration=[torch.rand(8, 4)])
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    with torch.no_grad():
        module.get_parameter(name).view(-1)[0] = float("nan")
        module.get_parameter("third.weight").fill_(float("inf"))  # comes later
    with pytest.raises(GetacError, match="a parameter itself is not finite") as caught:
        getac.check_gradients(module)
    assert str(caught.value.where).startswith(f"{name}, read by")
    assert caught.value.found == f"NaN or infinity in 2 of them: {name}, third.weight"


def test_refuses_what_is_no_module() -> None:
    not_a_module: Any = "m"
    with pytest.raises(BadInputError, match="no module"):
        getac.check_gradients(not_a_module)
