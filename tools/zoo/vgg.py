"""VGG (Simonyan & Zisserman 2014, arXiv 1409.1556): a channel becomes height x width features of a Gemm."""

from __future__ import annotations

import onnx

from tools.zoo.builder import GraphBuilder


def vgg(
    *,
    stages: tuple[int, ...] = (1, 1, 2, 2, 2),
    width: int = 64,
    hidden: int = 4096,
    image: int = 224,
    classes: int = 1000,
    seed: int = 0,
) -> onnx.ModelProto:
    """Stages of `stages[i]` convolutions, each ended by a pooling that halves the image (VGG-11)."""
    g = GraphBuilder("vgg", seed)
    x = g.input("image", 3, image, image)
    for stage, count in enumerate(stages):
        for _ in range(count):
            x = g.relu(g.conv(x, width * min(2**stage, 8), 3, pad=1, bias=True))
        x = g.max_pool(x, 2, 2)
    x = g.flatten(x)
    for _ in range(2):
        x = g.relu(g.gemm(x, hidden))
    return g.build(g.gemm(x, classes))
