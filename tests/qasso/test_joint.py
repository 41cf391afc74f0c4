"""The joint stage against its literal form; its guarantees under gradients of all kinds."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

import getac
from getac.errors import OptionError
from getac.qasso.joint import JointConstants, JointUpdate, ZeroUnits
from getac.qasso.projection import Projection, bits_of
from getac.qasso.units import UnitTable
from getac.training.quantizers import find_quantizers
from tests.qasso.literal import forget_literally, snapshot
from tests.qasso.nets import Attention, group, prepared, random_units, table_of
from tests.training.nets import images, steps

Gradient = Callable[[Tensor, torch.Generator], Tensor]

GRADIENTS: dict[str, Gradient] = {
    "random": lambda x, g: torch.randn(x.shape, generator=g, dtype=x.dtype),
    "with x": lambda x, g: x * torch.rand((), generator=g, dtype=x.dtype),
    "against x": lambda x, g: -x * torch.rand((), generator=g, dtype=x.dtype),
    "zero": lambda x, g: torch.zeros_like(x),
    "tiny": lambda x, g: torch.randn(x.shape, generator=g, dtype=x.dtype) * 1e-30,
    "huge": lambda x, g: torch.randn(x.shape, generator=g, dtype=x.dtype) * 1e6,
    "orthogonal": lambda x, g: orthogonal(x, torch.randn(x.shape, generator=g, dtype=x.dtype)),
}


def orthogonal(x: Tensor, noise: Tensor) -> Tensor:
    flat = x.flatten(1) if x.ndim > 1 else x[:, None] if x.ndim else x.view(1, 1)
    free = noise.view(flat.shape) - flat * (
        (noise.view(flat.shape) * flat).sum(1, True) / flat.square().sum(1, True)
    )
    return free.nan_to_num().view(x.shape)


def give_gradients(module: nn.Module, make: Gradient, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.grad = make(parameter.detach(), generator)


def mixed_gradients(x: Tensor, g: torch.Generator) -> Tensor:
    """Along x for some rows and against it for others, with noise."""
    sign = torch.randn(x.shape[:1] or (1,), generator=g, dtype=x.dtype).view(-1, *[1] * (x.ndim - 1))
    return (x * sign + 0.3 * torch.randn(x.shape, generator=g, dtype=x.dtype)).view(x.shape)


def joint_step(
    module: fx.GraphModule, update: JointUpdate, optimizer: Optimizer, lr: float, k: int, count: int
) -> None:
    projection = Projection.of(find_quantizers(module))
    held = update.gather()
    optimizer.step()
    projection.apply()
    update.apply(held, lr, k, count)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_equals_the_literal_form(seed: int, kind: type[Optimizer]) -> None:
    lr, count = 10.0 ** -(1 + 2 * (seed % 3)), 5
    module = prepared(learn_exponents=seed % 2 == 1).double()
    if seed % 2:
        for quantizer in find_quantizers(module):
            if quantizer.of_weight:
                quantizer.t.data.fill_(0.9)
    constants = JointConstants() if seed < 4 else JointConstants(beta=0.5, eta=0.9, xi=0.5)
    named = list(module.named_parameters())
    ranges = [parameter for name, parameter in named if name.endswith((".q_m", ".t"))]
    others = [parameter for name, parameter in named if not name.endswith((".q_m", ".t"))]
    optimizer: Optimizer = kind([{"params": others}, {"params": ranges, "lr": lr / 100}], lr=lr)  # type: ignore[call-arg]
    table = table_of(module)
    units = random_units(table, seed)
    update = JointUpdate(table, units, constants)
    rounds, gammas = 0, set()
    Projection.of(find_quantizers(module)).apply()  # what was computed in float32
    for k in range(count):
        give_gradients(module, mixed_gradients, 10 * seed + k)
        held, before = update.gather(), snapshot(module)
        optimizer.step()
        Projection.of(find_quantizers(module)).apply()
        other = copy.deepcopy(module)
        names = dict(other.named_parameters())
        translated = {names[name]: before[one] for name, one in module.named_parameters()}
        found = forget_literally(table_of(other), units, translated, lr, k, count, constants)
        rounds += sum(one.rounds for one in found)
        gammas |= {one.gamma for one in found}
        update.apply(held, lr, k, count)
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(parameter, names[name], rtol=1e-9, atol=1e-12, msg=name)
    assert len(gammas) > count  # both cases of gamma were met
    assert rounds > 0 or lr > 1e-4
    assert table.zero()[units].all()


@pytest.mark.parametrize("seed", range(3))
def test_a_step_is_a_direction_of_descent(seed: int) -> None:
    """u . (x_new - x_before) <= -alpha eta (1 - xi) ||u||^2, for each unit."""
    module = prepared().double()
    table, lr, of = table_of(module), 1e-2, JointConstants()
    units = random_units(table, seed)
    update = JointUpdate(table, units)
    give_gradients(module, mixed_gradients, seed)
    held, before = update.gather(), snapshot(module)
    SGD(module.parameters(), lr=lr).step()
    update.apply(held, lr, 0, 10)
    for unit in units.tolist():
        pairs = [
            (before[e.parameter][mask], e.parameter.detach()[mask], e.parameter.grad[mask])
            for e, mask in group(table, unit)
        ]  # type: ignore[index]
        x, now, u = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        assert u @ (now - x) <= -lr * of.eta * (1 - of.xi) * (u @ u) * (1 - 1e-9)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("name", GRADIENTS)
def test_bits_stay_and_units_vanish_under_any_gradient(name: str, per_channel: bool) -> None:
    for model, x in ((None, None), (Attention(), torch.randn(2, 5, 6))):
        module = prepared(model, x, per_channel=per_channel)
        table = table_of(module)
        units = random_units(table, 0)
        update, count = JointUpdate(table, units), 4
        optimizer = SGD(module.parameters(), lr=1e-2, momentum=0.9)
        for k in range(count):
            give_gradients(module, GRADIENTS[name], k)
            joint_step(module, update, optimizer, 1e-2, k, count)
            for quantizer in find_quantizers(module):
                bits = bits_of(quantizer)
                _, least, most = quantizer.bits
                assert quantizer.d.isfinite().all() and (quantizer.d > 0).all()
                assert (bits >= least - 1e-4).all() and (bits <= most + 1e-4).all()
            assert all(parameter.isfinite().all() for parameter in module.parameters())
        assert table.zero().nonzero()[:, 0].tolist() == units.tolist()


def test_only_redundant_rows_and_their_steps_change() -> None:
    module = prepared()
    table = table_of(module)
    units = random_units(table, 1)
    give_gradients(module, GRADIENTS["random"], 0)
    update = JointUpdate(table, units)
    held = update.gather()
    SGD(module.parameters(), lr=0.1).step()
    stepped = snapshot(module)
    update.apply(held, 0.1, 0, 3)
    touched = {
        id(parameter): torch.zeros_like(parameter, dtype=torch.bool) for parameter in module.parameters()
    }
    for unit in units.tolist():
        for entry, mask in group(table, unit):
            touched[id(entry.parameter)] |= mask
            if entry.quantizer is not None:
                touched[id(entry.quantizer.d)] |= mask.view(len(mask), -1).any(1)
    for name, parameter in module.named_parameters():
        same = parameter == stepped[parameter]
        assert same[~touched[id(parameter)]].all(), name
        if name.endswith("weight") and name != "head.weight":
            assert not same[touched[id(parameter)]].all(), name


def test_without_a_gradient_units_fade_evenly() -> None:
    """x_Q of what has no quantizer is x: after k of K steps (K - k) / K of it is left."""
    module = prepared()
    table = table_of(module)
    units = random_units(table, 2)
    bias = module.get_parameter("norm_a.bias")
    rows = next(one for one in table.rows(units) if one.entry.parameter is bias)
    first = rows.gather(bias.detach()).clone()
    update = JointUpdate(table, units)
    for k in range(4):
        update.apply(update.gather(), 0.1, k, 4)
        torch.testing.assert_close(rows.gather(bias.detach()), first * (3 - k) / 4)


def test_one_learning_rate_for_each_parameter() -> None:
    found = []
    for single in (True, False):
        module = prepared()
        table = table_of(module)
        update = JointUpdate(table, random_units(table, 3))
        give_gradients(module, mixed_gradients, 3)
        held = update.gather()
        SGD(module.parameters(), lr=0.05).step()
        rates = 0.05 if single else [torch.tensor(0.05) for _ in update.parameters]
        update.apply(held, rates, 0, 5)
        found.append(snapshot(module).values())
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_learning_rate_of_zero() -> None:
    module = prepared()
    table = table_of(module)
    units = random_units(table, 3)
    update = JointUpdate(table, units)
    for k in range(3):
        update.apply(update.gather(), 0.0, k, 3)
    assert table.zero()[units].all() and all(one.isfinite().all() for one in module.parameters())


def test_units_of_two_classes_at_once() -> None:
    """A head and a dimension of all heads: their common rows are forgotten with the greater gamma."""
    module = prepared(Attention(), torch.randn(2, 5, 6))
    table = table_of(module)
    units = torch.tensor([table.offsets[i] for i in range(len(table.classes))])
    update = JointUpdate(table, units)
    bias = module.get_parameter("v.bias")
    rows = next(one for one in table.rows(units) if one.entry.parameter is bias)
    assert (rows.owners < len(units)).all(0).any()
    first = rows.gather(bias.detach()).clone()
    update.apply(update.gather(), 0.1, 0, 4)  # no gradients: gamma is 1 / 4 for every unit
    torch.testing.assert_close(rows.gather(bias.detach()), first * 0.75)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    module = prepared()
    for name, parameter in module.named_parameters():
        if "quantizer" not in name:
            parameter.data = parameter.data.to(dtype)
    table = table_of(module)
    units = random_units(table, 0)
    update = JointUpdate(table, units)
    optimizer = SGD(module.parameters(), lr=1e-2)
    for k in range(3):
        give_gradients(module, mixed_gradients, k)
        joint_step(module, update, optimizer, 1e-2, k, 3)
        assert all(one.isfinite().all() for one in module.parameters())
    assert table.zero()[units].all()


def test_no_units_no_work() -> None:
    module = prepared()
    before = snapshot(module)
    update = JointUpdate(table_of(module), torch.zeros(0, dtype=torch.long))
    update.apply(update.gather(), 0.1, 0, 1)
    assert all(torch.equal(one, before[one]) for one in module.parameters())


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
def test_zero_units_stay_zero(kind: type[Optimizer]) -> None:
    module = prepared()
    options = (
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1} if kind is SGD else {"weight_decay": 0.1}
    )
    optimizer: Optimizer = kind(module.parameters(), lr=0.05, **options)  # type: ignore[arg-type, call-arg]
    table: UnitTable = table_of(module)
    units = random_units(table, 1)
    steps(module, optimizer, 2)
    zero = ZeroUnits(table, units)
    for seed in range(3):
        zero.hold(optimizer)
        assert table.zero().nonzero()[:, 0].tolist() == units.tolist()
        for rows in table.rows(units):
            state = optimizer.state[rows.entry.parameter]
            kept = [one for one in state.values() if isinstance(one, Tensor) and one.ndim]
            assert kept and all((rows.gather(one) == 0).all() and one.abs().sum() > 0 for one in kept)
        steps(module, optimizer, 1, seed=seed)
    assert module(images()).isfinite().all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("beta", 1.0), ("beta", 0.0), ("eta", 2.0), ("eta", "a"), ("eta", math.nan), ("xi", -1), ("eps", -1)],
)
def test_constants_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"out of range(.|\\n)*{name}"):
        getac.JointConstants(**{name: value})
    assert getac.JointConstants(eps=0.0, beta=0.5).eps == 0
