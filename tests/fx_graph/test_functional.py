"""In-place operators become functional where nobody can tell."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from getac.fx_graph.aliasing import is_in_place
from getac.fx_graph.capture import capture


class Net(nn.Module):
    def __init__(self, compute: Callable[[Tensor, nn.Module], Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.compute = compute
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self.linear(x), self)


def relu_in_place(y: Tensor, net: nn.Module) -> Tensor:
    return torch.relu_(y)


def sum_in_place(y: Tensor, net: nn.Module) -> Tensor:
    z = y * 2
    z += y
    return z.mul_(0.5)


def part_in_place(y: Tensor, net: nn.Module) -> Tensor:
    y[:, 0].add_(1.0)  # seen through y
    return y * 1


def buffer_in_place(y: Tensor, net: nn.Module) -> Tensor:
    net.seen.add_(y.detach().mean(0))
    return y + net.seen


def draw_in_place(y: Tensor, net: nn.Module) -> Tensor:
    return y * torch.empty_like(y).uniform_(0, 1)


def wider_in_place(y: Tensor, net: nn.Module) -> Tensor:
    return y.to(torch.bfloat16).add_(y)  # stays bfloat16


def in_place(compute: Callable[[Tensor, nn.Module], Tensor]) -> tuple[nn.Module, nn.Module, list[str]]:
    torch.manual_seed(0)
    net = Net(compute)
    module = capture(net, (torch.randn(3, 4),))
    written = [
        str(node.target) for node in module.graph.nodes if node.op == "call_function" and is_in_place(node)
    ]
    return net, module, written


@pytest.mark.parametrize("compute", [relu_in_place, sum_in_place])
def test_what_is_seen_by_its_result_alone_is_functional(compute: Callable[..., Tensor]) -> None:
    net, module, written = in_place(compute)
    assert written == []
    x = torch.randn(3, 4, requires_grad=True)
    torch.testing.assert_close(module(x), net(x), rtol=0, atol=0)


@pytest.mark.parametrize("compute", [part_in_place, buffer_in_place, draw_in_place, wider_in_place])
def test_what_is_seen_elsewhere_stays(compute: Callable[..., Tensor]) -> None:
    net, module, written = in_place(compute)
    assert len(written) == 1
    x, before = torch.randn(3, 4), net.seen.clone()
    torch.manual_seed(1)
    expected = net(x)
    net.seen.copy_(before)
    torch.manual_seed(1)
    found = module(x)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
