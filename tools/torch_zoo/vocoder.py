"""A generator of sound in the manner of HiFi-GAN (Kong et al. 2020): every convolution has a weight norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from tools.torch_zoo.example import BATCH, Example

__all__ = ["vocoder"]


class Residual(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.wide = weight_norm(nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation))
        self.narrow = weight_norm(nn.Conv1d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.wide(nn.functional.leaky_relu(x, 0.1))
        return x + self.narrow(nn.functional.leaky_relu(h, 0.1))  # type: ignore[no-any-return]


class Vocoder(nn.Module):
    def __init__(self, bands: int = 10, width: int = 24) -> None:
        super().__init__()
        self.into = weight_norm(nn.Conv1d(bands, width, 7, padding=3))
        self.up = nn.ModuleList(
            weight_norm(nn.ConvTranspose1d(width >> i, width >> i + 1, 4, stride=2, padding=1))
            for i in range(2)
        )
        self.blocks = nn.ModuleList(Residual(width >> i + 1, dilation=2) for i in range(2))
        self.out = weight_norm(nn.Conv1d(width >> 2, 1, 7, padding=3))

    def forward(self, bands: Tensor) -> Tensor:
        h = self.into(bands)
        for up, block in zip(self.up, self.blocks, strict=True):
            h = block(up(nn.functional.leaky_relu(h, 0.1)))
        return torch.tanh(self.out(nn.functional.leaky_relu(h, 0.1)))


def vocoder() -> Example:
    return Example(Vocoder(), (torch.randn(BATCH, 10, 16),))
