"""DenseNet (Huang et al. 2016, arXiv 1608.06993): every layer reads the concatenation of all before it."""

from __future__ import annotations

import onnx

from tools.zoo.builder import GraphBuilder, Value


def densenet(
    *,
    blocks: tuple[int, ...] = (6, 12, 24, 16),
    growth: int = 32,
    image: int = 224,
    classes: int = 1000,
    seed: int = 0,
) -> onnx.ModelProto:
    """Blocks of `blocks[i]` layers that add `growth` channels each; DenseNet-121 by default."""
    g = GraphBuilder("densenet", seed)
    x = g.input("image", 3, image, image)
    x = g.relu(g.batch_norm(g.conv(x, 2 * growth, 7, stride=2, pad=3)))
    x = g.max_pool(x, 3, 2, pad=1)
    for index, layers in enumerate(blocks):
        if index:
            x = g.average_pool(_bn_relu_conv(g, x, x.channels // 2, 1), 2, 2)
        for _ in range(layers):
            x = g.concat(x, _dense_layer(g, x, growth))
    return g.build(g.classify(g.relu(g.batch_norm(x)), classes))


def _dense_layer(g: GraphBuilder, x: Value, growth: int) -> Value:
    return _bn_relu_conv(g, _bn_relu_conv(g, x, 4 * growth, 1), growth, 3)


def _bn_relu_conv(g: GraphBuilder, x: Value, channels: int, kernel: int) -> Value:
    # The normalisation comes first, so it cannot be folded into the convolution before it.
    return g.conv(g.relu(g.batch_norm(x)), channels, kernel, pad=kernel // 2)
