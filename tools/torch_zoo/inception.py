"""Inception (Szegedy et al. 2014): branches of different widths, end to end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tools.torch_zoo.blocks import classifier, conv_norm
from tools.torch_zoo.example import BATCH, Example

__all__ = ["inception"]


class Mixed(nn.Module):
    def __init__(self, into: int) -> None:
        super().__init__()
        self.one = nn.Sequential(conv_norm(into, 8, 1), nn.ReLU())
        self.three = nn.Sequential(conv_norm(into, 6, 1), nn.ReLU(), conv_norm(6, 12, 3), nn.ReLU())
        self.five = nn.Sequential(conv_norm(into, 4, 1), nn.ReLU(), conv_norm(4, 6, 5), nn.ReLU())
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_norm(into, 6, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], dim=1)


def inception() -> Example:
    net = nn.Sequential(conv_norm(3, 16, 3, 2), nn.ReLU(), Mixed(16), Mixed(32), classifier(32))
    return Example(net, (torch.randn(BATCH, 3, 16, 16),))
