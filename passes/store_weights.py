"""store-weights: float layers keep their weights as integers in the file.

before   x -> Conv(W) -> y
after    x -> Conv(Cast(W_int) * scale) -> y        folded by onnxruntime at load: the speed of floats
before   x -> MatMul(W) -> y                        or Gemm(W, b)
after    x -> MatMul(DQ(W_int)) -> (Add b) -> y     MatMulNBits, activations quantized on the fly

Quantizers of activations that no integer kernel carries are written back, so that the function stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir

from getac.layers import Weights, read_weights, set_normal_form
from getac.onnx_graph.edit import add_initializer, insert_after, is_stored
from getac.onnx_graph.qdq import keep_quantizer, new_node, scaled_weight
from getac.onnx_graph.weight_only import fits_kernel, kernel_weight, spell_clipping
from getac.pipeline import Effect, Fact, Refusal, State
from getac.placement import is_layer

__all__ = ["StoreWeights"]


@dataclass(frozen=True)
class StoreWeights:
    """Lowers what does not run on integers to weight-only integers: INT4 or INT8, INT16 above 8 bits."""

    name: ClassVar[str] = "store-weights"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.WEIGHTS_QUANTIZED})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.LOWERED})
    keeps: ClassVar[frozenset[Fact]] = frozenset({Fact.SLICED, Fact.BATCH_NORMS_FOLDED})
    effect: ClassVar[Effect] = Effect.KERNELS

    def run(self, state: State) -> None:
        for node in list(state.model.graph):
            if not is_layer(node):
                continue
            reason = why_not(node)
            if reason is None:
                store(node, state)
            else:
                state.refuse(self.name, Refusal(node.name or node.op_type, reason, "it stays in floats"))
        keep_quantizers(state)


def why_not(node: ir.Node) -> str | None:
    weight = node.inputs[1]
    assert weight is not None
    if weight.dtype is not ir.DataType.FLOAT:
        return f"its weights are {weight.dtype.name if weight.dtype else 'of unknown type'}, not float32"
    if len(node.inputs) > 2 and node.inputs[2] is not None and not is_stored(node.inputs[2]):
        return "its bias is computed when the graph runs"
    return None


def store(node: ir.Node, state: State) -> None:
    weight = node.inputs[1]
    assert weight is not None
    name, weights = weight.name or "weight", read_weights(node, state.quantizers[weight])
    if node.op_type == "Gemm" and not node.attributes.get_int("transA", 0) and fits(turned(weights)):
        weights = turned(weights)
        split(node, weights, state)
    else:
        set_normal_form(node, weights)
    form = kernel_weight if node.op_type == "MatMul" and fits(weights) else scaled_weight
    if form is kernel_weight:
        spell_clipping(node)
    node.replace_input_with(1, form(node, name, weights.weight, weights.quantizer))


def fits(weights: Weights) -> bool:
    return weights.weight.ndim == 2 and fits_kernel(weights.quantizer)


def turned(weights: Weights) -> Weights:
    """The weights of a Gemm, (out, in), as those of a MatMul."""
    return replace(weights, weight=weights.weight.T, axis=1, quantizer=weights.quantizer.transposed())


def split(node: ir.Node, weights: Weights, state: State) -> None:
    """A Gemm becomes a MatMul and the Add of its bias, which onnxruntime gives to MatMulNBits.

    There is no MatMulNBits in place of a Gemm; it is faster than a Gemm of floats at any batch.
    """
    graph, bias = node.graph, node.inputs[2] if len(node.inputs) > 2 else None
    assert isinstance(graph, ir.Graph)
    node.op_type = "MatMul"
    node.attributes.clear()
    node.resize_inputs(2)
    if bias is None or weights.bias is None:
        return
    row = add_initializer(graph, f"{bias.name}.row", weights.bias)
    name = f"{node.outputs[0].name}.shifted"
    add = new_node(graph, "Add", [node.outputs[0], row], name, ir.DataType.FLOAT)
    insert_after(node, add)
    if node.outputs[0] in state.quantizers:  # it rounds what the bias was added to
        state.quantizers[add.outputs[0]] = state.quantizers.pop(node.outputs[0])


def keep_quantizers(state: State) -> None:
    """Writes the quantizers that are left on activations; integer kernels have taken theirs already."""
    graph, dtypes = state.model.graph, state.shapes.dtypes if state.shapes is not None else {}
    for value in [*graph.inputs, *(output for node in graph for output in node.outputs)]:
        if value in state.quantizers:
            dtype = value.dtype or dtypes.get(value, ir.DataType.FLOAT)
            keep_quantizer(graph, value, state.quantizers.pop(value), dtype)
