"""QASSO has a module quantize its small weights together; that changes no number, and nobody else sees it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import getac
from getac.kernels import ahead
from getac.qasso.attached import attached_to
from getac.qasso.optimizer import QASSO
from getac.qasso.pruning import Pruning
from getac.qasso.schedule import Schedule
from getac.qasso.together import SmallWeights
from getac.training.quantizers import find_quantizers
from tests.qasso.runs import images, prepared_attention, target_of, train, vectors


def gradients_of(module: fx.GraphModule, x: torch.Tensor) -> list[torch.Tensor | None]:
    module.zero_grad()
    torch.nn.functional.cross_entropy(module(x), target_of(x)).backward()  # type: ignore[no-untyped-call]
    return [one.grad for one in module.parameters()]


def test_changes_no_number() -> None:
    module, x = prepared_attention(), vectors(1)
    expected, outputs = gradients_of(module, x), module(x)
    small = SmallWeights(module)
    assert [len(group.weights) for group in small.groups] == [3]  # qkv, merge, up: rows of 16, 4 to 8 bits
    for one, other in zip(gradients_of(module, x), expected, strict=True):
        assert (one is other is None) or torch.equal(one, other)  # type: ignore[arg-type]
    assert torch.equal(module(x), outputs)
    small.detach()
    assert not module._forward_pre_hooks and not module._forward_hooks


def test_results_are_used_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    module = prepared_attention()
    small, take, taken = SmallWeights(module), ahead.take, []

    def noted(*given: Any) -> Any:
        taken.append(take(*given))
        return taken[-1]

    monkeypatch.setattr(ahead, "take", noted)
    module(vectors(0))
    assert sum(one is not None for one in taken) == len(small.groups[0].weights)
    assert not ahead.ahead.results
    with pytest.raises(RuntimeError):
        module(images(0))
    assert not ahead.ahead.results  # after an error too
    taken.clear()
    with torch.no_grad():
        module(vectors(0))
    assert not any(one is not None for one in taken)


def test_a_pass_that_was_interrupted_leaves_nothing_to_the_next() -> None:
    module, x = prepared_attention(), vectors(1)
    expected = gradients_of(module, x)
    SmallWeights(module)
    stale = torch.full((48, 16), 7.0)
    weight = next(one for one in find_quantizers(module) if one.name == "qkv.weight_quantizer")
    tensors = [module.get_parameter("qkv.weight"), weight.d, weight.q_m]
    ahead.put(tensors, (0, *weight.bits), stale)
    for one, other in zip(gradients_of(module, x), expected, strict=True):
        assert (one is other is None) or torch.equal(one, other)  # type: ignore[arg-type]
    ahead.put(tensors, (0, *weight.bits), stale)
    with torch.no_grad():
        module(x)
    assert not ahead.ahead.results


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(*size) for size in ((6, 16), (16, 3), (6, 16), (16, 3)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.b(F.relu(self.a(x))), self.d(F.relu(self.c(2 * x)))


class Heads(nn.Module):
    """Two heads of two layers on a trunk that does not learn."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.a, self.b = (
            nn.Linear(6, 16).requires_grad_(False),
            nn.Linear(16, 16),
            nn.Linear(16, 3),
        )
        self.c, self.d = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.trunk(x))
        return self.b(F.relu(self.a(h))), self.d(F.relu(self.c(h)))


@pytest.mark.parametrize("kind", [Towers, Heads])
def test_each_of_two_losses_is_differentiated_by_itself(kind: type[nn.Module]) -> None:
    def gradients(together: bool) -> list[Tensor | None]:
        torch.manual_seed(0)
        x = torch.randn(4, 6)
        geta = getac.GETA(kind(), x, calibration=[x], align=1)
        if together:
            geta.qasso(steps=30)
            assert sum(len(group.weights) for group in SmallWeights(geta.model).groups) >= 2
        for output in geta.model(x):
            output.square().mean().backward()
        return [one.grad for one in geta.model.parameters()]

    found = gradients(True)
    assert sum(one is not None for one in found) > 10
    for one, other in zip(found, gradients(False), strict=True):
        assert (one is other is None) or torch.equal(one, other)  # type: ignore[arg-type]


def test_a_copy_has_nothing_attached() -> None:
    module = prepared_attention()
    QASSO(module, schedule=Schedule(9, 0, 1, 0, 1, 0), pruning=Pruning(0.0), quantize_from="projection")
    other = copy.deepcopy(module)
    assert module._forward_pre_hooks and not other._forward_pre_hooks
    assert attached_to(other).small is None and attached_to(other).floats is None
    assert torch.equal(other(vectors(1)), prepared_attention()(vectors(1)))  # with its quantizers
    assert not torch.equal(module(vectors(1)), other(vectors(1)))


def test_optimizers_do_not_pile_up() -> None:
    module = prepared_attention()
    for _ in range(3):
        optimizer = QASSO(module, schedule=Schedule(1, 2, 1, 2, 1, 1), pruning=Pruning(0.25, align=1))
        assert len(module._forward_pre_hooks) == len(module._forward_hooks) == 1
    optimizer.finish()
    assert not module._forward_pre_hooks and not module._forward_hooks


def test_finished_modules_have_no_hooks() -> None:
    module = prepared_attention()
    optimizer = QASSO(module, schedule=Schedule(1, 2, 1, 2, 1, 1), pruning=Pruning(0.25, align=1))
    train(module, optimizer, 6, inputs=vectors)
    assert len(module._forward_pre_hooks) == 1  # one, however often the graph has changed
    optimizer.finish()
    assert not module._forward_pre_hooks and not module._forward_hooks
