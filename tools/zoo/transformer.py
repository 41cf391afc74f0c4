"""Transformer encoder (Vaswani et al. 2017, arXiv 1706.03762), pre-norm, in primitive ONNX operators."""

from __future__ import annotations

import math

import numpy as np
import onnx

from tools.zoo.builder import GraphBuilder, Value


def transformer(
    *,
    layers: int = 2,
    heads: int = 4,
    width: int = 256,
    hidden: int = 1024,
    tokens: int = 64,
    classes: int = 10,
    seed: int = 0,
    builder: type[GraphBuilder] = GraphBuilder,
) -> onnx.ModelProto:
    """(N, tokens, width) to (N, tokens, classes); `width` is divisible by `heads`."""
    g = builder("transformer", seed)
    x = g.input("embedding", tokens, width)
    for _ in range(layers):
        x = g.add(x, attention(g, g.layer_norm(x), heads))
        y = g.unary("Gelu", g.linear(g.layer_norm(x), hidden))
        x = g.add(x, g.linear(y, width))
    return g.build(g.linear(g.layer_norm(x), classes))


def attention(g: GraphBuilder, x: Value, heads: int, causal: bool = False) -> Value:
    """Of each token to all others, or (causal) to itself and those before it."""
    tokens, width = x.shape
    size = width // heads
    query = _heads(g, x, heads, (0, 2, 1, 3))
    key = _heads(g, x, heads, (0, 2, 3, 1))
    value = _heads(g, x, heads, (0, 2, 1, 3))
    scale = g.constant("attention.scale", np.array(1 / math.sqrt(size), np.float32))
    scores = g.emit("MatMul", [query, key], (heads, tokens, tokens))
    scores = g.emit("Mul", [scores, scale], scores.shape)
    if causal:
        later = np.triu(np.full((tokens, tokens), -1e4, np.float32), k=1)
        scores = g.emit("Add", [scores, g.constant("attention.mask", later)], scores.shape)
    weights = g.unary("Softmax", scores, axis=-1)
    mixed = g.transpose(g.emit("MatMul", [weights, value], (heads, tokens, size)), 0, 2, 1, 3)
    return g.linear(g.reshape(mixed, (0, -1, width), (tokens, width)), width)


def _heads(g: GraphBuilder, x: Value, heads: int, permutation: tuple[int, ...]) -> Value:
    tokens, width = x.shape
    y = g.linear(x, width)
    y = g.reshape(y, (0, 0, heads, width // heads), (tokens, heads, width // heads))
    return g.transpose(y, *permutation)
