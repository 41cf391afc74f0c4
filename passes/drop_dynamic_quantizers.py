"""drop-dynamic-quantizers: products of integers that are scaled afterwards become float products.

before   x -> DynamicQuantizeLinear -> x_q, s_x, z_x
         MatMulInteger(x_q, W_q, z_x, z_w) -> Cast(float) -> Mul(s_x s_w) -> y
after    MatMul(x, DequantizeLinear(W_q, s_w, z_w)) -> y

before   x -> QuantizeLinear(s_x, z_x) -> x_q       with the same product
after    MatMul(DequantizeLinear(x_q, s_x, z_x), DequantizeLinear(W_q, s_w, z_w)) -> y

A range that is measured on every input is no quantizer that a layer could be lowered with; the weights keep
theirs. ONNX DynamicQuantizeLinear-11, MatMulInteger-10, ConvInteger-10; onnxruntime's DynamicQuantizeMatMul
and MatMulIntegerToFloat (com.microsoft, version 1). The answer changes by the rounding that is left out: at
most half a step of 1/255 of each activation's range. Where activations get no quantizers of their own,
`quantize-dynamically` writes the products again in the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from getac.onnx_graph.edit import Array, array_of, is_stored, naming
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
        with naming(state.model.graph):
            for node in list(state.model.graph):
                try:
                    drop(node)
                except Refused as refused:
                    where = node.name or node.op_type
                    state.refuse(self.name, Refusal(where, str(refused), "it stays as it is"))


def drop(node: ir.Node) -> None:
    if node.op_type == "Mul" and node.domain in ("", "ai.onnx"):
        drop_from_product(node)
    elif node.op_type == "DynamicQuantizeMatMul" and node.domain == "com.microsoft":
        x, weight, scale, zero, *_ = [*node.inputs, None]
        put_in_place(node, whole_product(Expansion(node), x, weight, scale, zero, bias=4))
        mark(weight)
    elif node.op_type == "MatMulIntegerToFloat" and node.domain == "com.microsoft":
        drop_from_fused(node)


def drop_from_product(node: ir.Node) -> None:
    """Cast(MatMulInteger) * (s_x * s_w), in any order of the factors."""
    factors = list(factors_of(node.outputs[0]))
    product = next((made for made in map(integer_product, factors) if made is not None), None)
    if product is None:
        return
    scales = [one for one in factors if integer_product(one) is None]
    if len(scales) != len(factors) - 1:
        raise Refused("it multiplies products of integers with each other")
    expansion = Expansion(node)
    x, weight, x_zero, zero = [*product.inputs, None, None][:4]
    scale = per_unit(scale_of_weights(x, scales), product)
    weights = restored(expansion, product, scale, zero)
    multiply(expansion, product, unrounded(expansion, x, x_zero), weights)
    put_in_place(node, expansion)
    layer = expansion.nodes[-1]
    layer.name, product.name = product.name, layer.name  # the layer is where the product of integers was
    mark(weight, x)


def factors_of(value: ir.Value | None) -> Iterator[ir.Value | None]:
    """What a tree of Mul nodes multiplies."""
    made = maker(value, "Mul")
    if made is None:
        yield value
        return
    for one in made.inputs:
        yield from factors_of(one)


def integer_product(value: ir.Value | None) -> ir.Node | None:
    """The MatMulInteger or ConvInteger behind a Cast."""
    cast = maker(value, "Cast")
    return None if cast is None else maker(cast.inputs[0], *PRODUCTS)


def maker(value: ir.Value | None, *kinds: str) -> ir.Node | None:
    """The node that makes a value, if it is of one of some kinds."""
    made = value.producer() if value is not None else None
    return made if made is not None and made.op_type in kinds else None


# ---- activations ----


def unrounded(expansion: Expansion, x: ir.Value | None, zero: ir.Value | None) -> ir.Value | None:
    """The floats that activations were, or are restored to: this zero point is taken off them."""
    dynamic, quantize = maker(x, "DynamicQuantizeLinear"), maker(x, "QuantizeLinear")
    if dynamic is not None:
        if zero is None or zero is not dynamic.outputs[2]:
            raise Refused("it does not take off the zero point that DynamicQuantizeLinear added")
        return dynamic.inputs[0]
    if quantize is None:
        raise Refused("its activations come from neither QuantizeLinear nor DynamicQuantizeLinear")
    added = [*quantize.inputs, None][2]
    if number_of(added) != number_of(zero):
        raise Refused("it does not take off the zero point that QuantizeLinear added")
    return expansion.dequantized(x, quantize.inputs[1], added)


def number_of(zero: ir.Value | None) -> int:
    """A zero point; absent, it is 0."""
    if zero is None:
        return 0
    if not is_stored(zero) or array_of(zero).size != 1:
        raise Refused("its activations have several zero points, or one that is computed when the graph runs")
    return int(array_of(zero).reshape(-1)[0])


# ---- weights ----


def scale_of_weights(x: ir.Value | None, scales: list[ir.Value | None]) -> Array:
    """s_w of the factors s_x and s_w, or of their product where s_x is stored."""
    dynamic, quantize = maker(x, "DynamicQuantizeLinear"), maker(x, "QuantizeLinear")
    own = None if dynamic is None else dynamic.outputs[1]
    rest = [one for one in scales if one is None or one is not own]
    if len(rest) != len(scales) - (dynamic is not None) or not all(map(is_stored, rest)) or not rest:
        raise Refused("it is multiplied by something else than the scales of its operands")
    numbers = [array_of(one) for one in rest]
    if quantize is None:
        return numbers[0] if len(numbers) == 1 else product_of(numbers)
    step = array_of(quantize.inputs[1]).reshape(-1)[0]
    same = next((i for i, one in enumerate(numbers) if one.size == 1 and one.reshape(-1)[0] == step), None)
    if same is not None and len(numbers) > 1:
        return product_of(numbers[:same] + numbers[same + 1 :])
    return np.asarray(product_of(numbers) / step, step.dtype)


def product_of(numbers: list[Array]) -> Array:
    return np.asarray(reduce(np.multiply, numbers))


def per_unit(scale: Array, product: ir.Node) -> Array:
    """One scale, or a row with one for each output unit, whatever shape broadcasts it there.

    Units are the last dimension of the result of MatMulInteger, and the second one of ConvInteger's.
    """
    x, weight = product.inputs[:2]
    if weight is None or weight.shape is None or not is_stored(weight):
        raise Refused("its weights are computed when the graph runs")
    convolution, rank = product.op_type == "ConvInteger", len(weight.shape)
    units, behind = weight.shape[0 if convolution else -1], rank - 2 if convolution else 0
    vector = x is not None and x.shape is not None and len(x.shape) == 1
    if scale.ndim > rank - vector:
        raise Refused(f"a scale of shape {scale.shape} adds dimensions to its result")
    if scale.size == 1:
        return scale.reshape(())
    if scale.size != units or scale.ndim <= behind or scale.shape[-1 - behind] != units:
        raise Refused(f"a scale of shape {scale.shape} is none of its {units} output units")
    return scale.reshape(-1)


def restored(expansion: Expansion, product: ir.Node, scale: Array, zero: ir.Value | None) -> ir.Value:
    """The weights; each unit may have a zero point of its own where they have one scale."""
    weight = product.inputs[1]
    assert weight is not None and weight.shape is not None
    if is_stored(zero) and array_of(zero).size > 1 and scale.size == 1:
        scale = np.full(array_of(zero).size, scale)
    axis = 0 if product.op_type == "ConvInteger" else len(weight.shape) - 1
    return expansion.dequantized(weight, expansion.constant("scale", scale), zero, axis)


def multiply(expansion: Expansion, product: ir.Node, x: ir.Value | None, weight: ir.Value) -> None:
    attributes = {name: product.attributes[name] for name in MADE_WITH if name in product.attributes}
    expansion.add(PRODUCTS[product.op_type], [x, weight], attributes)


# ---- fused operators ----


def drop_from_fused(node: ir.Node) -> None:
    """MatMulIntegerToFloat: A, B, a_scale, b_scale, a_zero_point, b_zero_point, bias."""
    x, weight, x_scale, scale, x_zero, zero, _ = [*node.inputs, None, None, None][:7]
    expansion = Expansion(node)
    floats = unrounded(expansion, x, x_zero)
    dynamic, quantize = maker(x, "DynamicQuantizeLinear"), maker(x, "QuantizeLinear")
    if dynamic is not None and x_scale is not dynamic.outputs[1]:
        raise Refused("it multiplies by another scale than that of DynamicQuantizeLinear")
    if quantize is not None and not same_numbers(x_scale, quantize.inputs[1]):
        raise Refused("it multiplies by another scale than that of QuantizeLinear")
    put_in_place(node, whole_product(expansion, floats, weight, scale, zero, bias=6))
    mark(weight, x)


def same_numbers(one: ir.Value | None, other: ir.Value | None) -> bool:
    return (
        is_stored(one) and is_stored(other) and np.array_equal(array_of(one).ravel(), array_of(other).ravel())
    )


def whole_product(
    expansion: Expansion,
    x: ir.Value | None,
    weight: ir.Value | None,
    scale: ir.Value | None,
    zero: ir.Value | None,
    *,
    bias: int,
) -> Expansion:
    """x W + b, the bias one of the node's inputs."""
    rank = len(weight.shape) if weight is not None and weight.shape is not None else 2
    y = expansion.add("MatMul", [x, expansion.dequantized(weight, scale, zero, rank - 1)])
    added = expansion.given(bias)
    if added is not None and not (is_stored(added) and not np.any(array_of(added))):
        expansion.add("Add", [y, added])
    return expansion


def mark(weight: ir.Value | None, x: ir.Value | None = None) -> None:
    """Says of a stored weight that `quantize-dynamically` may write its layer as it was."""
    if weight is not None and maker(x, "QuantizeLinear") is None:
        weight.meta[DYNAMIC] = True
