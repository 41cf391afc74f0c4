"""Multi-layer perceptrons, in the three ways that exporters write a linear layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import onnx

from tools.zoo.builder import GraphBuilder, Value

Style = Literal["matmul", "gemm", "gemm_transposed"]
Activation = Literal["Relu", "Sigmoid", "Tanh"]


def mlp(
    *,
    style: Style = "gemm_transposed",
    activation: Activation = "Relu",
    features: int = 784,
    hidden: tuple[int, ...] = (512, 256),
    classes: int = 10,
    seed: int = 0,
) -> onnx.ModelProto:
    """`style` is MatMul + Add, or a Gemm whose weight is (in, out) or (out, in)."""
    g = GraphBuilder(f"mlp_{style}", seed)
    layer = _layer(g, style)
    x = g.input("features", features)
    for width in hidden:
        x = g.unary(activation, layer(x, width))
    return g.build(layer(x, classes))


def _layer(g: GraphBuilder, style: Style) -> Callable[[Value, int], Value]:
    if style == "matmul":
        return g.linear
    return lambda x, width: g.gemm(x, width, transposed=style == "gemm_transposed")
