"""ConvNeXt (Liu et al. 2022): layer norms over channels, layer scale, stochastic depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.torch_zoo.example import BATCH, Example

__all__ = ["convnext"]


class ChannelNorm(nn.LayerNorm):
    """Normalises the channels of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    def __init__(self, width: int, drop: float = 0.2) -> None:
        super().__init__()
        self.drop = drop
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand, self.reduce = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.reduce(functional.gelu(self.expand(y)))
        return x + self.drop_path(y.permute(0, 3, 1, 2))

    def drop_path(self, x: Tensor) -> Tensor:
        """Stochastic depth: drops the whole branch for some rows of the batch."""
        if not self.training:
            return x
        keep = 1 - self.drop
        mask = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep)
        return x * mask.div_(keep)


def convnext(width: int = 16) -> Example:
    net = nn.Sequential(
        nn.Conv2d(3, width, 4, 4),
        ChannelNorm(width),
        Block(width),
        ChannelNorm(width),
        nn.Conv2d(width, 2 * width, 2, 2),
        Block(2 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(2 * width),
        nn.Linear(2 * width, 10),
    )
    return Example(net, (torch.randn(BATCH, 3, 32, 32),))
