"""ResNet (He et al. 2015) and ResNeXt (Xie et al. 2016): residual sums tie stages; grouped convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tools.torch_zoo.blocks import conv_norm, shortcut
from tools.torch_zoo.example import BATCH, Example

__all__ = ["resnet", "resnext"]


class Basic(nn.Module):
    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = conv_norm(into, out, 3, stride)
        self.second = conv_norm(out, out, 3)
        self.shortcut = shortcut(into, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(torch.relu_(self.first(x)))
        y += self.shortcut(x)
        return torch.relu_(y)


class Bottleneck(nn.Module):
    def __init__(self, into: int, out: int, stride: int, groups: int = 4) -> None:
        super().__init__()
        self.reduce = conv_norm(into, out // 2, 1)
        self.middle = conv_norm(out // 2, out // 2, 3, stride, groups)
        self.expand = conv_norm(out // 2, out, 1)
        self.shortcut = shortcut(into, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.middle(torch.relu(self.reduce(x))))
        return torch.relu(self.expand(y) + self.shortcut(x))


def stages(block: type[Basic] | type[Bottleneck], width: int = 16) -> Example:
    net = nn.Sequential(
        conv_norm(3, width, 3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        block(width, width, 1),
        block(width, 2 * width, 2),
        block(2 * width, 2 * width, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 10),
    )
    return Example(net, (torch.randn(BATCH, 3, 16, 16),))


def resnet() -> Example:
    return stages(Basic)


def resnext() -> Example:
    return stages(Bottleneck)
