"""Language models in primitive ONNX operators: an encoder's layers, and a decoder."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from tools.zoo.builder import GraphBuilder, Value
from tools.zoo.transformer import attention

__all__ = ["decoder", "encoder"]


def encoder(
    *,
    layers: int = 1,
    heads: int = 12,
    width: int = 768,
    hidden: int = 3072,
    tokens: int = 128,
    seed: int = 0,
) -> onnx.ModelProto:
    """Layers of BERT (Devlin et al. 2018, arXiv 1810.04805; the defaults are those of BERT-base).

    (N, tokens, width) to the same: norms follow the sums.
    """
    g = GraphBuilder("encoder", seed)
    x = g.input("embedding", tokens, width)
    for _ in range(layers):
        x = g.layer_norm(g.add(x, attention(g, x, heads)))
        x = g.layer_norm(g.add(x, _perceptron(g, x, hidden)))
    return g.build(x)


def decoder(
    *,
    layers: int = 6,
    heads: int = 12,
    width: int = 768,
    hidden: int = 3072,
    tokens: int = 128,
    words: int = 8192,
    seed: int = 0,
) -> onnx.ModelProto:
    """GPT-2 (Radford et al. 2019), from words to the scores of what comes next; the head is not tied.

    (N, tokens) int64 to (N, tokens, words): norms come before, attention looks back only.
    """
    g = GraphBuilder("decoder", seed)
    x = g.embedding(g.input("words", tokens, dtype=TensorProto.INT64), words, width)
    for _ in range(layers):
        x = g.add(x, attention(g, g.layer_norm(x), heads, causal=True))
        x = g.add(x, _perceptron(g, g.layer_norm(x), hidden))
    return g.build(g.linear(g.layer_norm(x), words))


def _perceptron(g: GraphBuilder, x: Value, hidden: int) -> Value:
    return g.linear(g.unary("Gelu", g.linear(x, hidden)), x.shape[-1])
