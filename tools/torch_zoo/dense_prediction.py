"""Image to image: a UNet (Ronneberger et al. 2015), super-resolution by pixel shuffle (Shi et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tools.torch_zoo.blocks import conv_norm
from tools.torch_zoo.example import BATCH, Example

__all__ = ["super_resolution", "unet"]


def double(into: int, out: int) -> nn.Sequential:
    return nn.Sequential(conv_norm(into, out, 3), nn.ReLU(), conv_norm(out, out, 3), nn.ReLU())


class UNet(nn.Module):
    """Skip connections are concatenated with what a transposed convolution gives."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down1, self.down2 = double(3, width), double(width, 2 * width)
        self.bottom = double(2 * width, 32)
        self.raise2, self.up2 = nn.ConvTranspose2d(32, 2 * width, 2, 2), double(4 * width, 2 * width)
        self.raise1, self.up1 = nn.ConvTranspose2d(2 * width, width, 2, 2), double(2 * width, width)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(nn.functional.max_pool2d(first, 2))
        y = self.raise2(self.bottom(nn.functional.max_pool2d(second, 2)))
        y = self.raise1(self.up2(torch.cat([second, y], dim=1)))
        classes: Tensor = self.head(self.up1(torch.cat([first, y], dim=1)))
        return classes


class SuperResolution(nn.Module):
    def __init__(self, width: int = 16, factor: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 5, padding=2)
        self.body = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        before = nn.Conv2d(width, width * factor**2, 3, padding=1)
        self.raise_ = nn.Sequential(before, nn.PixelShuffle(factor))
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        for layer in self.body:
            y = y + torch.tanh(layer(y))
        base = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
        details: Tensor = self.last(self.raise_(y))
        return base + details


def unet() -> Example:
    return Example(UNet(), (torch.randn(BATCH, 3, 16, 16),))


def super_resolution() -> Example:
    return Example(SuperResolution(), (torch.randn(BATCH, 3, 8, 8),))
