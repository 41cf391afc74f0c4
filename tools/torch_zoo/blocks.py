"""What the convolutional families share."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["SqueezeExcite", "classifier", "conv_norm", "shortcut"]


def conv_norm(into: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out))


def shortcut(into: int, out: int, stride: int) -> nn.Module:
    return nn.Identity() if into == out and stride == 1 else conv_norm(into, out, 1, stride)


def classifier(width: int, classes: int = 10) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(width, classes))


class SqueezeExcite(nn.Module):
    """Channels scaled by a gate that is computed from their means (Hu et al. 2017)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, hidden, 1)
        self.excite = nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.excite(nn.functional.silu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()
