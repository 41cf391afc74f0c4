"""store-weights: float layers keep their weights as integers in the file.

before   x -> Conv(W) -> y
after    x -> Conv(Cast(W_int) * scale) -> y        folded by onnxruntime at load: the speed of floats
before   x -> MatMul(W) -> y                        or Gemm(W, b)
after    x -> MatMul(DQ(W_int)) -> (Add b) -> y     MatMulNBits, activations quantized on the fly

Where MatMulNBits would round more than the model does, the weights are folded as those of a Conv are.
Quantizers of activations that no integer kernel carries are written back, so that the function stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from getac.layers import Weights, read_weights, set_normal_form
from getac.onnx_graph.edit import add_initializer, array_of, insert_after, is_stored, replace_tensor
from getac.onnx_graph.packing.ways import Target
from getac.onnx_graph.packing.weights import target_of
from getac.onnx_graph.qdq import keep_quantizers, new_node, store_integers, stored_weight
from getac.onnx_graph.weight_only import (
    blocked_anew,
    fits_kernel,
    folded_weight,
    keep_from_integers,
    kernel_weight,
    spell_followers,
    with_whole_blocks,
)
from getac.pipeline import Effect, Fact, Refusal, State
from getac.placement.placement import is_layer
from getac.quantizer import Quantizer
from getac.units.bundles import CUT

__all__ = ["StoreWeights"]

KERNEL_BITS = 8  # MatMulNBits rounds activations to these
MATRIX = 2
HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class StoreWeights:
    """Lowers what does not run on integers to weight-only integers: INT4 or INT8, INT16 above 8 bits.

    Args:
        target: Who loads the model: "portable", also OpenVINO, whose blocks divide a weight's inputs; or
            "ort", onnxruntime alone.
    """

    target: str = "portable"

    name: ClassVar[str] = "store-weights"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.WEIGHTS_QUANTIZED})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.LOWERED})
    keeps: ClassVar[frozenset[Fact]] = frozenset({Fact.SLICED, Fact.BATCH_NORMS_FOLDED})
    effect: ClassVar[Effect] = Effect.KERNELS

    def __post_init__(self) -> None:
        target_of(self.target)

    def run(self, state: State) -> None:
        layers = [node for node in state.model.graph if is_layer(node)]
        fine = {node: rounded_finely(node, state.quantizers) for node in layers}
        for node in layers:
            reason = why_not(node)
            if reason is None:
                self.store(node, state, fine[node])
            else:
                state.refuse(self.name, Refusal(node.name or node.op_type, reason, "it stays in floats"))
                keep_integers(node, state)
        # What integer kernels have not taken.
        keep_quantizers(state.model.graph, state.quantizers, state.dtype_of)

    def store(self, node: ir.Node, state: State, fine: bool) -> None:
        weight = node.inputs[1]
        assert weight is not None
        name, weights = weight.name or "weight", read_weights(node, state.quantizers[weight])
        kernel = self.product(node, weights, state, fine)
        reason = None if kernel is None else self.why_folded(kernel, fine)
        if kernel is None or reason is not None or not kernel.weight.any():  # zeros would come out as noise
            if reason is not None:
                where = node.name or node.op_type
                state.refuse(self.name, Refusal(where, reason, "its weights are floats when the model runs"))
            set_normal_form(node, weights)
            restored = folded_weight(node, name, weights.weight, weights.quantizer)
        else:
            if node.op_type == "Gemm":
                split(node, kernel, state)
            keep_from_integers(node)
            spell_followers(node, rank(node.inputs[0], state) in (None, MATRIX))
            restored = kernel_weight(node, name, kernel.weight, self.suited(kernel) or kernel.quantizer)
        node.replace_input_with(1, restored)

    def product(self, node: ir.Node, weights: Weights, state: State, fine: bool) -> Weights | None:
        """The weights as those of a MatMul, if MatMulNBits takes them.

        Rows that slicing left with steps of their own are rounded again, in blocks.
        """
        product = as_product(node, weights)
        cut = node.inputs[1] is not None and CUT in node.inputs[1].meta and not fine
        if product is not None and cut and product.quantizer.bits <= KERNEL_BITS + 1:
            reason = f"its blocks were cut: its weights are rounded again, to {KERNEL_BITS} bits"
            state.refuse(
                self.name, Refusal(node.name or node.op_type, reason, "remove whole blocks of units")
            )
            record = blocked_anew(product.weight, whole=target_of(self.target) is not Target.ORT)
            product = replace(product, weight=record.quantize(product.weight), quantizer=record)
        return product if product is not None and fits_kernel(product.weight, product.quantizer) else None

    def suited(self, weights: Weights) -> Quantizer | None:
        """The weights' quantizer as whoever loads the model takes it; None if there is no such form."""
        if target_of(self.target) is Target.ORT:
            return weights.quantizer
        return with_whole_blocks(weights.quantizer, weights.weight.shape[0])

    def why_folded(self, weights: Weights, fine: bool) -> str | None:
        """Why weights that MatMulNBits takes are not given to it."""
        if fine:
            return f"its activations have more than {KERNEL_BITS} bits, to which MatMulNBits rounds them"
        if self.suited(weights) is None:
            block, inputs = weights.quantizer.block, weights.weight.shape[0]
            return f"blocks of {block} do not divide its {inputs} inputs, and OpenVINO takes no others"
        return None


def keep_integers(node: ir.Node, state: State) -> None:
    """A weight of half precision that came as integers is stored as these, in the form that it came in."""
    weight, graph = node.inputs[1], node.graph
    assert weight is not None and isinstance(graph, ir.Graph)
    record = state.quantizers.get(weight)
    if record is None or weight.dtype not in HALF:
        return
    integers, _ = stored_weight(np.asarray(array_of(weight), np.float32), record)
    if integers.itemsize == 1:  # others would take as much as floats of half precision
        store_integers(graph, weight, state.quantizers.pop(weight))


def why_not(node: ir.Node) -> str | None:
    weight = node.inputs[1]
    assert weight is not None
    if weight.dtype is not ir.DataType.FLOAT:
        return f"its weights are {weight.dtype.name if weight.dtype else 'of unknown type'}, not float32"
    if len(node.inputs) > 2 and node.inputs[2] is not None and not is_stored(node.inputs[2]):
        return "its bias is computed when the graph runs"
    return None


def as_product(node: ir.Node, weights: Weights) -> Weights | None:
    """The weights as those of a MatMul of matrices, if they are."""
    if node.op_type == "Gemm" and not node.attributes.get_int("transA", 0):
        weights = turned(weights)
    elif node.op_type != "MatMul":
        return None
    return weights if weights.weight.ndim == MATRIX else None


def rank(value: ir.Value | None, state: State) -> int | None:
    """The number of a value's dimensions, if it is known."""
    if value is not None and value.shape is not None:
        return len(value.shape)
    sizes = state.shapes.sizes(value) if state.shapes is not None and value is not None else None
    return None if sizes is None else len(sizes)


def rounded_finely(node: ir.Node, quantizers: Mapping[ir.Value, Quantizer]) -> bool:
    """Whether a layer lies behind, or in front of, a quantizer of activations of more than 8 bits."""
    if not any(one.bits > KERNEL_BITS for value, one in quantizers.items() if not value.is_initializer()):
        return False
    around = [*nearest(node.inputs[0], quantizers, before), *nearest(node.outputs[0], quantizers, behind)]
    return any(one.bits > KERNEL_BITS for one in around)


def nearest(
    start: ir.Value | None,
    quantizers: Mapping[ir.Value, Quantizer],
    onward: Callable[[ir.Value], Iterable[ir.Value | None]],
) -> Iterator[Quantizer]:
    """The first quantizers on all ways from a value, up to the next layers."""
    todo, seen = [start], set[ir.Value]()
    while todo:
        value = todo.pop()
        if value is None or value in seen or value.is_initializer():
            continue
        seen.add(value)
        if value in quantizers:
            yield quantizers[value]
        else:
            todo.extend(onward(value))


def before(value: ir.Value) -> Iterable[ir.Value | None]:
    node = value.producer()
    return () if node is None or ends(node) else node.inputs


def behind(value: ir.Value) -> Iterable[ir.Value]:
    return [output for user in value.consumers() if not ends(user) for output in user.outputs]


def ends(node: ir.Node) -> bool:
    """Whether a node's inputs and outputs are rounded apart from each other."""
    return is_layer(node) or node.op_type in ("QuantizeLinear", "DequantizeLinear")


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
    row = add_initializer(graph, str(bias.name), weights.bias) if bias.uses() else bias
    replace_tensor(row, weights.bias)
    name = f"{node.outputs[0].name}.shifted"
    add = new_node(graph, "Add", [node.outputs[0], row], name, ir.DataType.FLOAT)
    insert_after(node, add)
    if node.outputs[0] in state.quantizers:  # it rounds what the bias was added to
        state.quantizers[add.outputs[0]] = state.quantizers.pop(node.outputs[0])
