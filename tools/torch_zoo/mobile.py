"""MobileNetV2 (Sandler et al. 2018) and an EfficientNet (Tan, Le 2019): inverted residuals, depthwise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tools.torch_zoo.blocks import SqueezeExcite, classifier, conv_norm
from tools.torch_zoo.example import BATCH, Example

__all__ = ["efficientnet", "mobilenet"]


class Inverted(nn.Module):
    def __init__(self, into: int, out: int, stride: int, act: type[nn.Module], squeezes: bool) -> None:
        super().__init__()
        hidden = 4 * into
        self.adds = into == out and stride == 1
        self.body = nn.Sequential(
            conv_norm(into, hidden, 1),
            act(),
            conv_norm(hidden, hidden, 3, stride, groups=hidden),
            act(),
            SqueezeExcite(hidden, into // 2) if squeezes else nn.Identity(),
            conv_norm(hidden, out, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.adds else y


def inverted_residuals(act: type[nn.Module], squeezes: bool) -> Example:
    net = nn.Sequential(
        conv_norm(3, 16, 3, 2),
        act(),
        Inverted(16, 16, 1, act, squeezes),
        Inverted(16, 24, 2, act, squeezes),
        Inverted(24, 24, 1, act, squeezes),
        conv_norm(24, 48, 1),
        act(),
        classifier(48),
    )
    return Example(net, (torch.randn(BATCH, 3, 16, 16),))


def mobilenet() -> Example:
    return inverted_residuals(nn.ReLU6, squeezes=False)


def efficientnet() -> Example:
    return inverted_residuals(nn.SiLU, squeezes=True)
