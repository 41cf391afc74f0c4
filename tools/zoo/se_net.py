"""Squeeze-and-excitation network (Hu et al. 2017, arXiv 1709.01507): channels gated by their own averages."""

from __future__ import annotations

import onnx

from tools.zoo.builder import GraphBuilder, Value


def se_net(
    *,
    stages: int = 3,
    width: int = 64,
    reduction: int = 4,
    image: int = 224,
    classes: int = 1000,
    seed: int = 0,
) -> onnx.ModelProto:
    """Convolutions of `width * 2**i` channels, each followed by a gate and, within a stage, a shortcut."""
    g = GraphBuilder("se_net", seed)
    x = g.input("image", 3, image, image)
    for stage in range(stages):
        x = _conv_bn(g, x, width * 2**stage, stride=2)
        y = _conv_bn(g, g.relu(x), x.channels, stride=1)
        x = g.relu(g.add(x, _excite(g, y, reduction)))
    return g.build(g.classify(x, classes))


def _conv_bn(g: GraphBuilder, x: Value, channels: int, stride: int) -> Value:
    return g.batch_norm(g.conv(x, channels, 3, stride=stride, pad=1))


def _excite(g: GraphBuilder, x: Value, reduction: int) -> Value:
    squeezed = g.relu(g.conv(g.global_average_pool(x), x.channels // reduction, bias=True))
    gate = g.unary("Sigmoid", g.conv(squeezed, x.channels, bias=True))
    return g.binary("Mul", x, gate)
