"""U-Net (Ronneberger et al. 2015, arXiv 1505.04597): skips from the way down to the way up."""

from __future__ import annotations

import numpy as np
import onnx

from tools.zoo.builder import GraphBuilder, Value


def unet(
    *, depth: int = 4, width: int = 64, image: int = 256, classes: int = 2, seed: int = 0
) -> onnx.ModelProto:
    """Levels go up by a ConvTranspose and by Resize + Conv in turn; `image` is divisible by 2**depth."""
    g = GraphBuilder("unet", seed)
    x = _double_conv(g, g.input("image", 3, image, image), width)
    skips = []
    for level in range(1, depth + 1):
        skips.append(x)
        x = _double_conv(g, g.max_pool(x, 2, 2), width * 2**level)
    for level, skip in enumerate(reversed(skips)):
        up = _resize_conv(g, x, skip.channels) if level % 2 else g.conv_transpose(x, skip.channels)
        x = _double_conv(g, g.concat(skip, up), skip.channels)
    return g.build(g.conv(x, classes, bias=True))


def _double_conv(g: GraphBuilder, x: Value, channels: int) -> Value:
    for _ in range(2):
        x = g.relu(g.batch_norm(g.conv(x, channels, 3, pad=1)))
    return x


def _resize_conv(g: GraphBuilder, x: Value, channels: int) -> Value:
    scales = g.constant("resize.scales", np.array([1, 1, 2, 2], np.float32))
    shape = (x.channels, *(2 * size for size in x.shape[1:]))
    # Input 1 (roi) is absent, which ONNX writes as an empty name.
    up = g.emit("Resize", [x, "", scales], shape, mode="nearest")
    return g.conv(up, channels, bias=True)
