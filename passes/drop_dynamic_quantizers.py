"""drop-dynamic-quantizers: products of dynamically quantized activations become float products.

before   x -> DynamicQuantizeLinear -> x_q, s_x, z_x
         MatMulInteger(x_q, W_q, z_x, z_w) -> Cast(float) -> Mul(s_x s_w) -> y
after    MatMul(x, DequantizeLinear(W_q, s_w, z_w)) -> y

A range that is measured on every input is no quantizer that a layer could be lowered with; the weights keep
theirs. ONNX DynamicQuantizeLinear-11, MatMulInteger-10, ConvInteger-10; onnxruntime's DynamicQuantizeMatMul
and MatMulIntegerToFloat (com.microsoft, version 1). The answer changes by the rounding that is left out: at
most half a step of 1/255 of each activation's range. Where activations get no quantizers of their own,
`quantize-dynamically` writes the products again in the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from getac.onnx_graph.edit import array_of, is_stored
from getac.onnx_graph.qoperators import DYNAMIC, Expansion, Refused, put_in_place
from getac.pipeline import Effect, Fact, Refusal, State

__all__ = ["DropDynamicQuantizers"]

PRODUCTS = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}
MADE_WITH = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


@dataclass(frozen=True)
class DropDynamicQuantizers:
    """Turns products of dynamically quantized activations into float products with quantized weights."""

    name: ClassVar[str] = "drop-dynamic-quantizers"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset()
    effect: ClassVar[Effect] = Effect.KERNELS

    def run(self, state: State) -> None:
        for node in list(state.model.graph):
            try:
                if node.op_type == "Mul" and node.domain in ("", "ai.onnx"):
                    drop_from_product(node)
                elif node.op_type == "DynamicQuantizeMatMul" and node.domain == "com.microsoft":
                    put_in_place(node, whole_product(node, *node.inputs[:4], bias=4))
                elif node.op_type == "MatMulIntegerToFloat" and node.domain == "com.microsoft":
                    drop_from_fused(node)
            except Refused as refused:
                state.refuse(self.name, Refusal(node.name or node.op_type, str(refused), "it stays as it is"))


def drop_from_product(node: ir.Node) -> None:
    """Cast(MatMulInteger) * (s_x * s_w), in any order of the factors."""
    factors = list(factors_of(node.outputs[0]))
    product = next((made for made in map(integer_product, factors) if made is not None), None)
    if product is None:
        return
    dynamic = dynamic_quantizer(product.inputs[0])
    if dynamic is None:
        raise Refused("its activations are quantized neither statically nor by DynamicQuantizeLinear")
    rest = [one for one in factors if integer_product(one) is None and one is not dynamic.outputs[1]]
    if len(rest) != 1 or not is_stored(rest[0]) or len(factors) != 3:
        raise Refused("it is multiplied by something else than the scales of its operands")
    zero = product.inputs[3] if len(product.inputs) > 3 else None
    put_in_place(node, float_product(node, product, dynamic.inputs[0], rest[0], zero))


def factors_of(value: ir.Value | None) -> Iterator[ir.Value | None]:
    """What a tree of Mul nodes multiplies."""
    maker = value.producer() if value is not None else None
    if maker is None or maker.op_type != "Mul":
        yield value
        return
    for one in maker.inputs:
        yield from factors_of(one)


def integer_product(value: ir.Value | None) -> ir.Node | None:
    """The MatMulInteger or ConvInteger behind a Cast."""
    cast = value.producer() if value is not None else None
    if cast is None or cast.op_type != "Cast" or cast.inputs[0] is None:
        return None
    made = cast.inputs[0].producer()
    return made if made is not None and made.op_type in PRODUCTS else None


def dynamic_quantizer(value: ir.Value | None) -> ir.Node | None:
    maker = value.producer() if value is not None else None
    return maker if maker is not None and maker.op_type == "DynamicQuantizeLinear" else None


def float_product(
    node: ir.Node, product: ir.Node, x: ir.Value | None, scale: ir.Value | None, zero: ir.Value | None
) -> Expansion:
    """The same product of x and the restored weights."""
    expansion = Expansion(node)
    weight = product.inputs[1]
    rank = len(weight.shape) if weight is not None and weight.shape is not None else 2
    axis = 0 if product.op_type == "ConvInteger" else rank - 1
    restored = expansion.dequantized(weight, scale, zero, axis)
    mark(weight)
    attributes = {name: product.attributes[name] for name in MADE_WITH if name in product.attributes}
    expansion.add(PRODUCTS[product.op_type], [x, restored], attributes)
    return expansion


def drop_from_fused(node: ir.Node) -> None:
    """MatMulIntegerToFloat: A, B, a_scale, b_scale, a_zero_point, b_zero_point, bias."""
    inputs = [*node.inputs, None, None, None][:7]
    dynamic = dynamic_quantizer(inputs[0])
    if dynamic is None:
        raise Refused("its activations are not quantized by DynamicQuantizeLinear")
    put_in_place(node, whole_product(node, dynamic.inputs[0], inputs[1], inputs[3], inputs[5], bias=6))


def whole_product(
    node: ir.Node,
    x: ir.Value | None,
    weight: ir.Value | None,
    scale: ir.Value | None,
    zero: ir.Value | None = None,
    *,
    bias: int,
) -> Expansion:
    """x W + b, the bias one of the node's inputs."""
    expansion = Expansion(node)
    rank = len(weight.shape) if weight is not None and weight.shape is not None else 2
    y = expansion.add("MatMul", [x, expansion.dequantized(weight, scale, zero, rank - 1)])
    mark(weight)
    added = expansion.given(bias)
    if added is not None and not (is_stored(added) and not np.any(array_of(added))):
        expansion.add("Add", [y, added])
    return expansion


def mark(weight: ir.Value | None) -> None:
    """Says of a stored weight that `quantize-dynamically` may write its layer as it was."""
    if weight is not None:
        weight.meta[DYNAMIC] = True
