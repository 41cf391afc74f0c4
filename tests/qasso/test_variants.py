"""Warm-up is torch's own optimizer to the bit, and weight decay leaves quantizers alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn

from getac.errors import OptionError
from getac.qasso.optimizer import QASSO
from getac.qasso.pruning import Pruning
from getac.qasso.schedule import Schedule
from getac.qasso.variants import VARIANTS, base_optimizer, quantizer_parameters
from getac.training.quantizers import find_quantizers
from tests.qasso.runs import prepared, train

WARM_UP, DENSE = Schedule(200, 0, 1, 0, 1, 0), Pruning(0.0)


def groups(module: fx.GraphModule, quantizer_lr: float) -> list[dict[str, Any]]:
    """As a person would write them for torch."""
    ranges, steps = quantizer_parameters(module)
    weights = [one for one in module.parameters() if one not in {*ranges, *steps}]
    learned = [one for one in ranges if one.requires_grad]
    return [
        {"params": weights},
        {"params": learned, "lr": quantizer_lr, "weight_decay": 0.0},
        {"params": steps, "lr": quantizer_lr / 100, "weight_decay": 0.0},
    ]


@pytest.mark.parametrize(
    ("variant", "lr", "options"),
    [
        ("sgd", 0.05, {}),
        ("sgd", 0.05, {"fused": True}),
        ("sgd", 0.05, {"momentum": 0.9, "weight_decay": 1e-3, "nesterov": True}),
        ("sgd", 0.05, {"momentum": 0.9, "dampening": 0.1, "foreach": False}),
        ("adam", 1e-3, {"weight_decay": 1e-2, "foreach": True}),
        ("adam", 1e-3, {"amsgrad": True, "foreach": False, "betas": (0.8, 0.99)}),
        ("adamw", 1e-3, {"weight_decay": 0.1}),
        ("adamw", 1e-3, {"fused": True}),
    ],
)
def test_warm_up_is_torchs_optimizer_to_the_bit(variant: str, lr: float, options: dict[str, Any]) -> None:
    ours, theirs = prepared(), prepared()
    rates = {"lr": lr, "quantizer_lr": lr / 2}
    optimizer = QASSO(ours, variant=variant, schedule=WARM_UP, pruning=DENSE, **rates, **options)
    reference = VARIANTS[variant](groups(theirs, lr / 2), lr=lr, **options)
    assert train(ours, optimizer, 100) == train(theirs, reference, 100)
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_weight_decay_never_touches_quantizers() -> None:
    module = prepared()
    rates = {"lr": 0.1, "quantizer_lr": 0.1, "weight_decay": 0.5}
    optimizer = QASSO(module, variant="adamw", schedule=WARM_UP, pruning=DENSE, **rates)
    before = {one.name: (one.d.clone(), one.q_m.clone()) for one in find_quantizers(module)}
    weight = module.get_parameter("head.weight")
    size = weight.norm().item()
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert weight.norm().item() == pytest.approx(0.95 * size)
    for one in find_quantizers(module):
        assert torch.equal(one.d, before[one.name][0]) and torch.equal(one.q_m, before[one.name][1])


def test_parameter_groups_keep_their_settings() -> None:
    module = prepared()
    head = [*module.get_submodule("head").parameters(recurse=False)]
    rest = [one for one in module.parameters() if all(one is not other for other in head)]
    given = [{"params": rest}, {"params": head, "lr": 0.5}]
    base = base_optimizer(module, "sgd", given, 0.1, 0.01, 0.001, {})
    assert [group["lr"] for group in base.param_groups] == [0.1, 0.5, 0.01, 0.001]
    ranges, steps = quantizer_parameters(module)
    assert set(base.param_groups[2]["params"]) == {one for one in ranges if one.requires_grad}
    assert set(base.param_groups[3]["params"]) == {one for one in steps if one.requires_grad}


def test_named_parameters_are_taken() -> None:
    module = prepared()
    named = base_optimizer(module, "adam", module.named_parameters(), 0.1, 0.01, 0.001, {})
    every = base_optimizer(module, "adam", None, 0.1, 0.01, 0.001, {})
    for one, other in zip(named.param_groups, every.param_groups, strict=True):
        assert all(a is b for a, b in zip(one["params"], other["params"], strict=True))


def test_refuses_foreign_parameters() -> None:
    module, other = prepared(), nn.Linear(7, 3)
    with pytest.raises(OptionError, match=r"2 others, of shapes \(3, 7\), \(3,\)"):
        QASSO(module, [*module.parameters(), *other.parameters()], schedule=WARM_UP)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"variant": "lion"}, "sgd, adam, adamw"),
        ({"lr": -1.0}, "no learning rate"),
        ({"lr": float("nan")}, "no learning rate"),
        ({"lr": "fast"}, "no learning rate"),
        ({"quantizer_lr": -1e-3}, "quantizer_lr"),
        ({"step_lr": None, "quantizer_lr": "slow"}, "quantizer_lr"),
        ({"step_lr": -1}, "step_lr"),
        ({"momentum": 0.9}, "AdamW does not take"),
        ({"variant": "sgd", "nesterov": True}, "Nesterov"),
        ({"betas": (2.0, 0.9)}, "beta"),
    ],
)
def test_refuses_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        QASSO(prepared(), schedule=WARM_UP, **options)
