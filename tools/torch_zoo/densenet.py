"""DenseNet (Huang et al. 2016): every layer reads the concatenation of all before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tools.torch_zoo.blocks import classifier
from tools.torch_zoo.example import BATCH, Example

__all__ = ["densenet"]


class Layer(nn.Module):
    def __init__(self, into: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(into), nn.Conv2d(into, 2 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * growth)
        self.conv2 = nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.norm1(x).relu())
        return torch.cat([x, self.conv2(self.norm2(y).relu())], 1)


def transition(into: int, out: int) -> nn.Sequential:
    convolution = nn.Conv2d(into, out, 1, bias=False)
    return nn.Sequential(nn.BatchNorm2d(into), nn.ReLU(), convolution, nn.AvgPool2d(2))


def densenet(width: int = 16, growth: int = 8) -> Example:
    middle = width + 2 * growth
    net = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        Layer(width, growth),
        Layer(width + growth, growth),
        transition(middle, width),
        Layer(width, growth),
        nn.BatchNorm2d(width + growth),
        nn.ReLU(),
        classifier(width + growth),
    )
    return Example(net, (torch.randn(BATCH, 3, 16, 16),))
