"""ShuffleNet v1 (Zhang et al. 2017, arXiv 1707.01083) and v2 (Ma et al. 2018, arXiv 1807.11164)."""

from __future__ import annotations

import onnx

from tools.zoo.builder import GraphBuilder, Value


def shufflenet_v1(
    *,
    repeats: tuple[int, ...] = (4, 8, 4),
    width: int = 240,
    groups: int = 3,
    image: int = 224,
    classes: int = 1000,
    seed: int = 0,
) -> onnx.ModelProto:
    """Grouped 1x1 convolutions whose groups a shuffle mixes; `width` is divisible by 4 * groups."""
    g = GraphBuilder("shufflenet_v1", seed)
    x = _stem(g, image, 24)
    for stage, count in enumerate(repeats):
        for block in range(count):
            # The paper does not group the first pointwise convolution: its input has only 24 channels.
            first = 1 if stage == block == 0 else groups
            x = _unit_v1(g, x, width * 2**stage, first, groups, downsample=block == 0)
    return g.build(g.classify(x, classes))


def shufflenet_v2(
    *,
    repeats: tuple[int, ...] = (4, 8, 4),
    width: int = 116,
    last: int = 1024,
    image: int = 224,
    classes: int = 1000,
    seed: int = 0,
) -> onnx.ModelProto:
    """Half of the channels passes each unit untouched; `width` is even."""
    g = GraphBuilder("shufflenet_v2", seed)
    x = _stem(g, image, 24)
    for stage, count in enumerate(repeats):
        x = _reduce_v2(g, x, width * 2**stage)
        for _ in range(count - 1):
            x = _unit_v2(g, x)
    return g.build(g.classify(_conv_relu(g, x, last), classes))


def shuffle(g: GraphBuilder, x: Value, groups: int) -> Value:
    """Channel g * n + i moves to i * groups + g: Reshape, Transpose, Reshape."""
    n, size = x.channels // groups, x.shape[1:]
    x = g.reshape(x, (0, groups, n, *size), (groups, n, *size))
    x = g.transpose(x, 0, 2, 1, 3, 4)
    return g.reshape(x, (0, n * groups, *size), (n * groups, *size))


def _stem(g: GraphBuilder, image: int, channels: int) -> Value:
    x = g.input("image", 3, image, image)
    return g.max_pool(g.relu(g.batch_norm(g.conv(x, channels, 3, stride=2, pad=1))), 3, 2, pad=1)


def _conv_relu(g: GraphBuilder, x: Value, channels: int, groups: int = 1) -> Value:
    return g.relu(g.batch_norm(g.conv(x, channels, groups=groups)))


def _depthwise(g: GraphBuilder, x: Value, stride: int) -> Value:
    return g.batch_norm(g.conv(x, x.channels, 3, stride=stride, pad=1, groups=x.channels))


def _unit_v1(
    g: GraphBuilder, x: Value, channels: int, first_groups: int, groups: int, downsample: bool
) -> Value:
    out = channels - x.channels if downsample else channels
    y = shuffle(g, _conv_relu(g, x, channels // 4, first_groups), groups)
    y = _depthwise(g, y, 2 if downsample else 1)
    y = g.batch_norm(g.conv(y, out, groups=groups))
    if downsample:
        return g.relu(g.concat(g.average_pool(x, 3, 2, pad=1), y))
    return g.relu(g.add(x, y))


def _reduce_v2(g: GraphBuilder, x: Value, channels: int) -> Value:
    half = channels // 2
    left = _conv_relu(g, _depthwise(g, x, 2), half)
    right = _conv_relu(g, _depthwise(g, _conv_relu(g, x, half), 2), half)
    return shuffle(g, g.concat(left, right), 2)


def _unit_v2(g: GraphBuilder, x: Value) -> Value:
    half = x.channels // 2
    kept, y = g.split(x, half, half)
    y = _conv_relu(g, _depthwise(g, _conv_relu(g, y, half), 1), half)
    return shuffle(g, g.concat(kept, y), 2)
