"""The integers of a model's layers, however they are stored."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from getac.onnx_graph.packing.unpacking import computed_integers

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def weight_integers(model: ir.Model | onnx.ModelProto) -> dict[str, np.ndarray]:
    """Layer -> what its weight is dequantized, or cast, from; layers in the order of the graph."""
    if not isinstance(model, ir.Model):
        model = ir.from_proto(model)
    found = {node.name: behind(node.inputs[1]) for node in model.graph if node.op_type in LAYERS}
    return {str(name): array for name, array in found.items() if array is not None}


def behind(value: ir.Value | None) -> np.ndarray | None:
    while value is not None:
        integers = computed_integers(value)
        if integers is not None:
            return integers
        node = value.producer()
        value = node.inputs[0] if node is not None and node.inputs else None
    return None
