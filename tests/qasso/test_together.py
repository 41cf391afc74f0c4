"""QASSO has a module quantize its small weights together; that changes no number, and nobody else sees it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import fx

from getac.kernels import ahead
from getac.qasso.optimizer import QASSO
from getac.qasso.pruning import Pruning
from getac.qasso.schedule import Schedule
from getac.qasso.together import SmallWeights
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


def test_a_copy_is_trained_by_itself() -> None:
    module = prepared_attention()
    QASSO(module, schedule=Schedule(9, 0, 1, 0, 1, 0), pruning=Pruning(0.0))
    other = copy.deepcopy(module)
    with torch.no_grad():
        for one in other.parameters():
            one.mul_(1.1)
    alone = copy.deepcopy(other)
    for mine, its in zip(gradients_of(other, vectors(1)), gradients_of(alone, vectors(1)), strict=True):
        assert (mine is its is None) or torch.equal(mine, its)  # type: ignore[arg-type]


def test_finished_modules_have_no_hooks() -> None:
    module = prepared_attention()
    optimizer = QASSO(module, schedule=Schedule(1, 2, 1, 2, 1, 1), pruning=Pruning(0.25, align=1))
    train(module, optimizer, 6, inputs=vectors)
    assert len(module._forward_pre_hooks) == 1  # one, however often the graph has changed
    optimizer.finish()
    assert not module._forward_pre_hooks and not module._forward_hooks
