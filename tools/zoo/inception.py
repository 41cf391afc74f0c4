"""Inception v3's module types (Szegedy et al. 2015, arXiv 1512.00567): parallel branches, 1x7 kernels."""

from __future__ import annotations

import onnx

from tools.zoo.builder import GraphBuilder, Value


def inception(*, width: int = 32, image: int = 299, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """A stem of `width` channels and one module of each type A (5x5), B (reduction) and C (1x7 and 7x1)."""
    g = GraphBuilder("inception", seed)
    x = g.input("image", 3, image, image)
    x = _conv(g, x, width, 3, stride=2, pad=1)
    x = g.max_pool(_conv(g, x, 2 * width, 3, pad=1), 3, 2, pad=1)
    x = _module_a(g, x, width)
    x = _module_b(g, x, 2 * width)
    x = _module_c(g, x, 2 * width)
    return g.build(g.classify(x, classes))


def _conv(
    g: GraphBuilder,
    x: Value,
    channels: int,
    kernel: int | tuple[int, int] = 1,
    *,
    stride: int = 1,
    pad: int | tuple[int, int] = 0,
) -> Value:
    return g.relu(g.batch_norm(g.conv(x, channels, kernel, stride=stride, pad=pad)))


def _module_a(g: GraphBuilder, x: Value, n: int) -> Value:
    one = _conv(g, x, n)
    five = _conv(g, _conv(g, x, n // 2), n, 5, pad=2)
    three = _conv(g, _conv(g, _conv(g, x, n), n, 3, pad=1), n, 3, pad=1)
    pooled = _conv(g, g.average_pool(x, 3, 1, pad=1, count_include_pad=True), n // 2)
    return g.concat(one, five, three, pooled)


def _module_b(g: GraphBuilder, x: Value, n: int) -> Value:
    three = _conv(g, x, n, 3, stride=2)
    double = _conv(g, _conv(g, _conv(g, x, n // 2), n // 2, 3, pad=1), n, 3, stride=2)
    # The pooled branch has no convolution: its channels reach the concat from the module before.
    return g.concat(three, double, g.max_pool(x, 3, 2))


def _module_c(g: GraphBuilder, x: Value, n: int) -> Value:
    one = _conv(g, x, n)
    seven = _row_column(g, _conv(g, x, n // 2), n // 2, n)
    double = _row_column(g, _row_column(g, _conv(g, x, n // 2), n // 2, n // 2), n // 2, n)
    pooled = _conv(g, g.average_pool(x, 3, 1, pad=1, count_include_pad=False), n)
    return g.concat(one, seven, double, pooled)


def _row_column(g: GraphBuilder, x: Value, between: int, out: int) -> Value:
    row = _conv(g, x, between, (1, 7), pad=(0, 3))
    return _conv(g, row, out, (7, 1), pad=(3, 0))
