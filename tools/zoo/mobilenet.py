"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381): inverted residuals around depthwise convolutions."""

from __future__ import annotations

import onnx

from tools.zoo.builder import GraphBuilder, Value

# Expansion, channels, blocks, stride: table 2 of the paper.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(
    *,
    stages: tuple[tuple[int, int, int, int], ...] = STAGES,
    width: float = 1.0,
    last: int = 1280,
    image: int = 224,
    classes: int = 1000,
    seed: int = 0,
) -> onnx.ModelProto:
    """Channels of every stage are multiplied by `width` and rounded to a multiple of 4."""
    g = GraphBuilder("mobilenet_v2", seed)
    x = g.input("image", 3, image, image)
    x = _conv_bn_relu6(g, x, _scaled(32, width), 3, stride=2)
    for expansion, channels, blocks, stride in stages:
        for block in range(blocks):
            x = _inverted_residual(g, x, _scaled(channels, width), expansion, 1 if block else stride)
    x = _conv_bn_relu6(g, x, _scaled(last, width), 1)
    return g.build(g.classify(x, classes))


def _scaled(channels: int, width: float) -> int:
    return max(4, round(channels * width / 4) * 4)


def _conv_bn_relu6(
    g: GraphBuilder, x: Value, channels: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> Value:
    y = g.conv(x, channels, kernel, stride=stride, pad=kernel // 2, groups=groups)
    return g.relu6(g.batch_norm(y))


def _inverted_residual(g: GraphBuilder, x: Value, channels: int, expansion: int, stride: int) -> Value:
    hidden = x.channels * expansion
    y = x if expansion == 1 else _conv_bn_relu6(g, x, hidden, 1)
    y = _conv_bn_relu6(g, y, hidden, 3, stride=stride, groups=hidden)
    y = g.batch_norm(g.conv(y, channels))
    return g.add(x, y) if stride == 1 and x.channels == channels else y
