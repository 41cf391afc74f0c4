"""Which operators onnxruntime's CPU kernels run on integers, and what they need there (as of 1.31)."""

from __future__ import annotations

import onnx_ir as ir

from getac.onnx_graph.rearranging import rearranges

__all__ = ["ANY_SCALE", "BETWEEN_OWN", "LAYERS", "MAX_BITS", "NO_INTEGER_KERNEL", "hands_scale_on"]

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
NO_INTEGER_KERNEL = ("ConvTranspose",)
MAX_BITS = 8

ANY_SCALE = (
    *("Add", "Mul", "Concat"),
    *("AveragePool", "GlobalAveragePool"),
    *("LeakyRelu", "Sigmoid"),
)
"""Each of their inputs and their result has a scale of its own."""

BETWEEN_OWN = ("MatMul", "Softmax")
"""Likewise, but only between quantizers that the model has: nobody knows how many bits an attention needs."""

SELECTING = ("MaxPool", "ReduceMax", "ReduceMin")
"""Their results are entries of their input, of each window or row: on its lattice."""


def hands_scale_on(node: ir.Node) -> bool:
    """Whether a node runs on integers only where its results have the quantizer of its first input.

    SpaceToDepth is among them although it has no kernel for integers: it runs in floats, between pairs of
    one scale.
    """
    return rearranges(node) or (node.op_type in SELECTING and node.domain in ("", "ai.onnx"))
