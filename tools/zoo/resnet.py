"""ResNet with basic blocks (He et al. 2015, arXiv 1512.03385): residual sums tie whole stages together."""

from __future__ import annotations

import onnx

from tools.zoo.builder import GraphBuilder, Value


def resnet(
    *, blocks: tuple[int, ...], width: int = 64, image: int = 224, classes: int = 1000, seed: int = 0
) -> onnx.ModelProto:
    """Stages of `blocks[i]` basic blocks with `width * 2**i` channels each."""
    g = GraphBuilder("resnet", seed)
    x = g.input("image", 3, image, image)
    x = g.relu(g.batch_norm(g.conv(x, width, 7, stride=2, pad=3)))
    x = g.max_pool(x, 3, 2, pad=1)
    for stage, count in enumerate(blocks):
        for block in range(count):
            x = _basic_block(g, x, width * 2**stage, stride=2 if stage and not block else 1)
    return g.build(g.classify(x, classes))


def resnet18(*, width: int = 64, image: int = 224, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """20 convolutions (three of them on shortcuts) and one Gemm; 11.7 M parameters at the defaults."""
    return resnet(blocks=(2, 2, 2, 2), width=width, image=image, classes=classes, seed=seed)


def _basic_block(g: GraphBuilder, x: Value, channels: int, stride: int) -> Value:
    y = g.relu(g.batch_norm(g.conv(x, channels, 3, stride=stride, pad=1)))
    y = g.batch_norm(g.conv(y, channels, 3, pad=1))
    if stride != 1 or x.channels != channels:
        x = g.batch_norm(g.conv(x, channels, 1, stride=stride))
    return g.relu(g.add(y, x))
