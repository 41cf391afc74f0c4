"""The two networks of the digits table: ResNet-20 in CIFAR's layout, and a small vision transformer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.torch_zoo.blocks import conv_norm
from tools.torch_zoo.resnet import Basic

__all__ = ["NETWORKS", "ResNet20", "VisionTransformer"]


class ResNet20(nn.Sequential):
    """Three stages of three blocks (He et al. 2015, section 4.2), with projections where shapes change.

    Args:
        channels: Of an image.
        width: Channels of the first stage, doubled twice.
        blocks: Per stage.
    """

    def __init__(self, channels: int = 1, width: int = 16, blocks: int = 3, classes: int = 10) -> None:
        layers: list[nn.Module] = [conv_norm(channels, width, 3), nn.ReLU()]
        for stage in range(3):
            out = width << stage
            into = out >> (stage > 0)
            layers += [Basic(into if i == 0 else out, out, 1 + (i == 0 < stage)) for i in range(blocks)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width << 2, classes))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        split = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        found: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return found


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        y: Tensor = x + self.mlp(self.mlp_norm(x))
        return y


class VisionTransformer(nn.Module):
    """Patches of 4 x 4, blocks with the norms first (Dosovitskiy et al. 2020), the mean of all tokens."""

    def __init__(self, width: int = 64, layers: int = 4, heads: int = 4, hidden: int = 128) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.position = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.blocks = nn.Sequential(*(Block(width, heads, hidden) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(x)).mean(1))
        return logits


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {"resnet20": ResNet20, "vit": VisionTransformer}
