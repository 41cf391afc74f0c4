"""ShuffleNet (Zhang et al. 2017; Ma et al. 2018): channels shuffled by a reshape, split in two by chunk."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tools.torch_zoo.blocks import classifier, conv_norm
from tools.torch_zoo.example import BATCH, Example

__all__ = ["shufflenet_v1", "shufflenet_v2"]


def shuffle(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.shape
    split = x.view(batch, groups, channels // groups, height, width)
    return split.transpose(1, 2).reshape(batch, channels, height, width)


class Grouped(nn.Module):
    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.first = conv_norm(width, width, 1, groups=groups)
        self.middle = conv_norm(width, width, 3, groups=width)
        self.last = conv_norm(width, width, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        y = shuffle(self.first(x).relu(), self.groups)
        return torch.relu(x + self.last(self.middle(y)))


class Halves(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.body = nn.Sequential(
            conv_norm(half, half, 1),
            nn.ReLU(),
            conv_norm(half, half, 3, groups=half),
            conv_norm(half, half, 1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        return shuffle(torch.cat((left, self.body(right)), dim=1), 2)


def shufflenet_v1() -> Example:
    net = nn.Sequential(conv_norm(3, 32, 3, 2), nn.ReLU(), Grouped(32, 2), Grouped(32, 2), classifier(32))
    return Example(net, (torch.randn(BATCH, 3, 16, 16),))


def shufflenet_v2() -> Example:
    stages = nn.Sequential(Halves(32), Halves(32), conv_norm(32, 48, 1), nn.ReLU())
    net = nn.Sequential(conv_norm(3, 32, 3, 2), nn.ReLU(), stages, classifier(48))
    return Example(net, (torch.randn(BATCH, 3, 16, 16),))
