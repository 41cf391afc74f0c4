"""store-weights: float layers keep their weights as INT8 in the file and get them back when it is loaded.

before   x -> Conv(W) -> y
after    x -> Conv(Cast(W_int8) * scale) -> y       folded by onnxruntime at load: the speed of floats
after    x -> MatMul(DQ(W_int8)) -> y               MatMulNBits, activations quantized on the fly

Quantizers of activations that no integer kernel carries are written back, so that the function stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from getac.layers import read_weights, set_normal_form
from getac.onnx_graph.edit import is_stored
from getac.onnx_graph.qdq import dequantized_weight, keep_quantizer, scaled_weight
from getac.pipeline import Fact, Refusal, State
from getac.placement import is_layer

__all__ = ["StoreWeights"]


@dataclass(frozen=True)
class StoreWeights:
    """Lowers what does not run on integers to weight-only INT8, one step per output channel."""

    name: ClassVar[str] = "store-weights"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.WEIGHTS_QUANTIZED})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.LOWERED})
    keeps: ClassVar[frozenset[Fact]] = frozenset({Fact.SLICED, Fact.BATCH_NORMS_FOLDED})

    def run(self, state: State) -> None:
        for node in list(state.model.graph):
            if not is_layer(node):
                continue
            reason = why_not(node, state)
            if reason is None:
                store(node, state)
            else:
                state.refuse(self.name, Refusal(node.name or node.op_type, reason, "it stays in floats"))
        keep_quantizers(state)


def why_not(node: ir.Node, state: State) -> str | None:
    weight = node.inputs[1]
    assert weight is not None
    if weight.dtype is not ir.DataType.FLOAT:
        return f"its weights are {weight.dtype.name if weight.dtype else 'of unknown type'}, not float32"
    if len(node.inputs) > 2 and node.inputs[2] is not None and not is_stored(node.inputs[2]):
        return "its bias is computed when the graph runs"
    record = state.quantizers.get(weight)
    if record is not None and record.bits > 8:
        return f"its weights have {record.bits} bits"
    return None


def store(node: ir.Node, state: State) -> None:
    weight = node.inputs[1]
    assert weight is not None
    weights = read_weights(node, state.quantizers[weight])
    set_normal_form(node, weights)
    form = dequantized_weight if node.op_type == "MatMul" and weights.weight.ndim == 2 else scaled_weight
    node.replace_input_with(1, form(node, weight.name or "weight", weights.weight, weights.quantizer))


def keep_quantizers(state: State) -> None:
    """Writes the quantizers that are left on activations; integer kernels have taken theirs already."""
    graph, dtypes = state.model.graph, state.shapes.dtypes if state.shapes is not None else {}
    for value in [*graph.inputs, *(output for node in graph for output in node.outputs)]:
        if value in state.quantizers:
            dtype = value.dtype or dtypes.get(value, ir.DataType.FLOAT)
            keep_quantizer(graph, value, state.quantizers.pop(value), dtype)
