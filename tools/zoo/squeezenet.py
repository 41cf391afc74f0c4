"""SqueezeNet 1.1 (Iandola et al. 2016, arXiv 1602.07360): fire modules, and a convolution as classifier."""

from __future__ import annotations

import onnx

from tools.zoo.builder import GraphBuilder, Value

# Squeeze channels of the fire modules, grouped by the poolings between them.
STAGES = ((16, 16), (32, 32), (48, 48, 64, 64))


def squeezenet(
    *,
    stages: tuple[tuple[int, ...], ...] = STAGES,
    width: int = 64,
    image: int = 224,
    classes: int = 1000,
    seed: int = 0,
) -> onnx.ModelProto:
    """`width` is the channel count of the stem."""
    g = GraphBuilder("squeezenet", seed)
    x = g.input("image", 3, image, image)
    x = g.relu(g.conv(x, width, 3, stride=2, bias=True))
    for stage in stages:
        x = g.max_pool(x, 3, 2)
        for squeeze in stage:
            x = _fire(g, x, squeeze)
    # The classifier is a convolution, so nothing but the pooling follows the dropout's consumer.
    x = g.relu(g.conv(g.unary("Dropout", x), classes, bias=True))
    return g.build(g.flatten(g.global_average_pool(x)))


def _fire(g: GraphBuilder, x: Value, squeeze: int) -> Value:
    x = g.relu(g.conv(x, squeeze, bias=True))
    one = g.relu(g.conv(x, 4 * squeeze, bias=True))
    three = g.relu(g.conv(x, 4 * squeeze, 3, pad=1, bias=True))
    return g.concat(one, three)
