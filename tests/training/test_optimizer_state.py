"""An optimizer goes on with what it remembers of the elements that stay."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.optim import Optimizer

from getac.analyzing import analyze
from getac.errors import BadInputError
from getac.training.regenerating import regenerate
from getac.training.state import state_of
from tests.training.nets import Keep, captured, conv_net, images, some_units, steps, tied
from tools.fx_law import difference, masked_copy

optim = torch.optim
Make = Callable[[Any], Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "sgd": partial(optim.SGD, lr=0.05),
    "momentum": partial(optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "nesterov": partial(optim.SGD, lr=0.05, momentum=0.9, nesterov=True),
    "adam": partial(optim.Adam, lr=0.01),
    "amsgrad": partial(optim.AdamW, lr=0.01, amsgrad=True),
    "adamw": partial(optim.AdamW, lr=0.01, foreach=True),
    "fused": partial(optim.AdamW, lr=0.01, fused=True),
    "adamax": partial(optim.Adamax, lr=0.01),
    "rmsprop": partial(optim.RMSprop, lr=0.001, momentum=0.9, centered=True),
    "adagrad": partial(optim.Adagrad, lr=0.01),
    "nadam": partial(optim.NAdam, lr=0.01),
    "radam": partial(optim.RAdam, lr=0.01),
    "adadelta": partial(optim.Adadelta, lr=0.5),
    "asgd": partial(optim.ASGD, lr=0.01),
    "rprop": partial(optim.Rprop, lr=0.001),
}

# Rounding amplifies the last bits of the others' larger steps.
EXACT = [(one, False) for one in ("sgd", "nesterov", "amsgrad", "rmsprop", "nadam")]
EXACT += [(one, quantized) for one in ("momentum", "adam", "adamw") for quantized in (False, True)]


def stored_masks(module: fx.GraphModule, keep: Keep) -> dict[str, list[Any]]:
    """Name of a parameter -> which indices of each dimension stay."""
    analysis = analyze(module)
    masks = {one.atom: keep[one.name] for one in analysis.classes}
    named = {analysis.view.name_of(one): analysis.keep_masks(one, masks) for one in analysis.parameters}
    for value, quantizer in analysis.view.quantizers.items():
        if quantizer.axis is not None:
            channels = analysis.keep_masks(value, masks)[quantizer.axis]
            named |= {f"{quantizer.name}.d": [channels], f"{quantizer.name}.q_m": [channels]}
    return {name: masks for name, masks in named.items() if masks is not None}


def cut(tensor: Tensor, masks: list[Any]) -> Tensor:
    """An entry of the state, or a parameter; what has another rank or a size of 1 is not cut there."""
    if tensor.ndim == len(masks):
        for dimension, mask in enumerate(masks):
            if tensor.shape[dimension] == len(mask):
                tensor = tensor.index_select(dimension, torch.from_numpy(np.flatnonzero(mask)))
    return tensor


def with_optimizer(
    make: Make, drop: float = 0.0, quantized: bool = False
) -> tuple[fx.GraphModule, Optimizer]:
    module = conv_net(drop=drop, quantized=quantized)
    return module, make(module.parameters())


def hold_at_zero(module: fx.GraphModule, optimizer: Optimizer, masks: dict[str, list[Any]]) -> None:
    """Masked elements get no gradient any more, and lose what the optimizer remembers of them."""
    for name, parameter in module.named_parameters():
        mask = torch.ones_like(parameter)
        for dimension, kept in enumerate(masks.get(name, ())):
            mask.index_fill_(dimension, torch.from_numpy(np.flatnonzero(~kept)), 0)
        if parameter.requires_grad:
            parameter.register_hook(lambda grad, mask=mask: grad * mask)
        for entry in optimizer.state[parameter].values():
            if isinstance(entry, Tensor) and entry.shape == parameter.shape:
                entry.mul_(mask)


@pytest.mark.parametrize(("name", "quantized"), EXACT)
def test_training_goes_on_as_that_of_the_masked_module(name: str, quantized: bool) -> None:
    module, optimizer = with_optimizer(OPTIMIZERS[name], quantized=quantized)
    steps(module, optimizer, 3)
    keep = some_units(module)
    masks = stored_masks(module, keep)
    analysis = analyze(module)
    masked = masked_copy(module, analysis, {one.atom: keep[one.name] for one in analysis.classes})
    masked_optimizer = OPTIMIZERS[name](masked.parameters())
    masked_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    hold_at_zero(masked, masked_optimizer, masks)
    regenerate(module, keep, optimizer)
    expected, found = (steps(m, o, 4, seed=3) for m, o in ((masked, masked_optimizer), (module, optimizer)))
    assert found == pytest.approx(expected, abs=1e-5)
    whole = dict(masked.named_parameters())
    for name, parameter in module.named_parameters():
        expected_one = cut(whole[name].detach(), masks.get(name, []))
        assert difference([expected_one], [parameter]) <= 1e-5, name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_entry_is_cut_as_its_parameter(name: str) -> None:
    module, optimizer = with_optimizer(OPTIMIZERS[name], drop=0.1, quantized=name in ("momentum", "adamw"))
    steps(module, optimizer)
    for seed in range(2):
        keep = some_units(module, seed)
        masks = stored_masks(module, keep)
        before = {n: dict(optimizer.state[p]) for n, p in module.named_parameters()}
        regenerate(module, keep, optimizer)
        for n, parameter in module.named_parameters():
            for key, entry in optimizer.state[parameter].items():
                old = before[n][key]
                if isinstance(old, Tensor):
                    assert torch.equal(entry, cut(old, masks.get(n, []))) and entry.dtype == old.dtype
                else:
                    assert entry == old
        steps(module, optimizer, seed=seed)
        assert all(p.isfinite().all() for p in module.parameters())


def test_factored_moments() -> None:
    module, optimizer = with_optimizer(partial(optim.Adafactor, lr=0.01))
    steps(module, optimizer)
    keep = some_units(module)
    regenerate(module, keep, optimizer)
    head = module.get_parameter("head.weight")
    assert head.shape == (5, 8)
    state = optimizer.state[head]
    assert state["row_var"].shape == (5, 1) and state["col_var"].shape == (1, 8)
    steps(module, optimizer)


def test_a_tied_table_has_one_state() -> None:
    module = tied()
    optimizer = optim.Adam(module.parameters(), lr=0.01)
    inputs = lambda seed: torch.randint(0, 9, (3, 5), generator=torch.Generator().manual_seed(seed))  # noqa: E731
    steps(module, optimizer, inputs=inputs)
    regenerate(module, some_units(module), optimizer)
    table = module.get_parameter("table.weight")
    assert optimizer.state[table]["exp_avg"].shape == table.shape
    steps(module, optimizer, inputs=inputs)


def test_sparse_gradients() -> None:
    model = nn.Sequential(nn.Embedding(9, 8, sparse=True), nn.Linear(8, 4))
    words = torch.tensor([[1, 2, 3], [4, 5, 6]])
    module = captured(model, words)
    optimizer = optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    steps(module, optimizer, inputs=lambda _: words)
    table = module.get_parameter("0.weight")
    before = table.grad.to_dense()
    keep = some_units(module)
    mask = torch.from_numpy(keep["c0"])
    regenerate(module, keep, optimizer)
    assert table.grad.is_sparse and torch.equal(table.grad.to_dense(), before[:, mask])
    steps(module, optimizer, inputs=lambda _: words)


def test_groups_schedules_and_scalers_stay() -> None:
    module = conv_net()
    named = dict(module.named_parameters())
    norms = [p for n, p in named.items() if n.startswith("norm")]
    rest = [p for n, p in named.items() if not n.startswith("norm")]
    optimizer = optim.AdamW([{"params": rest}, {"params": norms, "lr": 0.5, "weight_decay": 0.0}], lr=0.01)
    schedule = optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for seed in range(3):
        optimizer.zero_grad()
        scaler.scale(module(images()).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        regenerate(module, some_units(module, seed), optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01 / 8, 0.5 / 8]
    assert [list(map(id, group["params"])) for group in optimizer.param_groups] == [
        list(map(id, rest)),
        list(map(id, norms)),
    ]
    assert schedule.last_epoch == 3 and scaler.get_scale() == 8.0


def test_an_optimizer_without_state_and_one_for_some_parameters() -> None:
    module = conv_net()
    optimizer = optim.Adam([module.get_parameter("head.weight"), nn.Parameter(torch.ones(3))])
    regenerate(module, some_units(module), optimizer)
    assert not optimizer.state
    steps(module, optimizer)
    assert len(optimizer.state) == 1


def refused(module: fx.GraphModule, optimizer: Any, message: str) -> BadInputError:
    """Nothing must have changed."""
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    held = {id(p): dict(s) for p, s in getattr(optimizer, "state", {}).items()}
    code = module.code
    with pytest.raises(BadInputError, match=message) as error:
        regenerate(module, some_units(module), optimizer)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert all(s[k] is held[id(p)][k] for p, s in getattr(optimizer, "state", {}).items() for k in s)
    assert module.code == code and state_of(module).removals == []
    return error.value


def test_refuses_a_state_that_does_not_follow() -> None:
    module, optimizer = with_optimizer(OPTIMIZERS["adam"])
    steps(module, optimizer)
    weight = module.get_parameter("head.weight")
    optimizer.state[weight]["basis"] = torch.zeros(12, 12)
    error = refused(module, optimizer, "cannot be cut with its parameter")
    assert error.where == "Adam, 'basis' of head.weight" and error.found == "shape (12, 12)"
    optimizer.state[weight]["basis"] = [torch.zeros(5, 12)]
    assert refused(module, optimizer, "cannot be cut").found == "list"


def test_refuses_optimizers_that_it_cannot_follow() -> None:
    module = conv_net()
    refused(module, optim.LBFGS(module.parameters()), "LBFGS")
    refused(module, optim.SGD([nn.Parameter(torch.ones(3))], lr=0.1), "trains no parameter of this module")
    refused(module, module.parameters(), "not a torch optimizer")
