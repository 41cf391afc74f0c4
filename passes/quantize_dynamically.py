"""quantize-dynamically: products whose activations the model quantized as it ran do so again.

before   x -> MatMul(W) -> y                            or Gemm(W, b)
after    x -> DynamicQuantizeLinear -> MatMulInteger(W_int) -> Cast -> Mul(s_x s_w) -> (Add b) -> y

The form that onnxruntime fuses into DynamicQuantizeMatMul, where activations have got no range that is fixed:
for these products it is several times faster than floats, and what the model meant. A convolution is slower
so, and stays in floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from getac.layers import Weights, read_weights
from getac.onnx_graph.edit import add_initializer, taken_names, unique_name
from getac.onnx_graph.qdq import new_node, stored_integers
from getac.onnx_graph.qoperators import DYNAMIC
from getac.pipeline import Effect, Fact, State
from getac.placement.placement import is_layer

__all__ = ["QuantizeDynamically"]

FLOAT, INT32, UINT8 = ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.UINT8
MOST_BITS = 8


@dataclass(frozen=True)
class QuantizeDynamically:
    """Writes matrix products that came with dynamically quantized activations in that form again."""

    name: ClassVar[str] = "quantize-dynamically"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.WEIGHTS_QUANTIZED})
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset(
        {Fact.SLICED, Fact.BATCH_NORMS_FOLDED, Fact.LOWERED, Fact.WEIGHTS_QUANTIZED}
    )
    effect: ClassVar[Effect] = Effect.KERNELS

    def run(self, state: State) -> None:
        quantized: dict[ir.Value, ir.Node] = {}
        for node in list(state.model.graph):
            if is_layer(node) and was_dynamic(node, state):
                write(node, state, quantized)


def was_dynamic(node: ir.Node, state: State) -> bool:
    x, weight = node.inputs[0], node.inputs[1]
    assert x is not None and weight is not None and weight.shape is not None
    record = state.quantizers.get(weight)
    suits = record is not None and record.bits <= MOST_BITS and record.axis in (None, columns(node))
    return (
        bool(weight.meta.get(DYNAMIC))
        and suits
        and node.op_type in ("Gemm", "MatMul")
        and len(weight.shape) == 2
        and not node.attributes.get_int("transA", 0)
        and x not in state.quantizers
    )


def columns(node: ir.Node) -> int:
    return 0 if node.attributes.get_int("transB", 0) else 1


def write(node: ir.Node, state: State, quantized: dict[ir.Value, ir.Node]) -> None:
    x, weight, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert x is not None and weight is not None and isinstance(node.graph, ir.Graph)
    weights = read_weights(node, state.quantizers[weight])
    if x not in quantized:
        quantized[x] = dynamic_quantizer(node, x)
    made = product(node, str(weight.name), weights, *quantized[x].outputs)
    node.graph.insert_before(node, made)
    new, name = made[-1].outputs[0], output.name
    new.type, new.shape = output.type or new.type, output.shape
    ir.convenience.replace_all_uses_with(output, new, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)
    new.name, made[0].name = name, node.name  # the report knows the layer by it
    if output in state.quantizers:
        state.quantizers[new] = state.quantizers.pop(output)


def dynamic_quantizer(node: ir.Node, x: ir.Value) -> ir.Node:
    """The integers, the step and the zero point of x, for all layers that read it."""
    assert isinstance(node.graph, ir.Graph)
    parts, taken = ("int", "scale", "zero_point", "quantized"), taken_names(node.graph)
    *names, name = (unique_name(node.graph, f"{x.name}.{part}", taken) for part in parts)
    outputs = [
        ir.Value(name=name, type=ir.TensorType(t))
        for name, t in zip(names, (UINT8, FLOAT, UINT8), strict=True)
    ]
    made = ir.node("DynamicQuantizeLinear", [x], outputs=outputs, name=name)
    node.graph.insert_before(node, made)
    return made


def product(
    node: ir.Node, name: str, weights: Weights, x: ir.Value, scale: ir.Value, zero: ir.Value
) -> list[ir.Node]:
    """x W + b, in the order in which it is computed."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    integers, shift = stored_integers(weights.weight, weights.quantizer)
    matrix = add_initializer(graph, f"{name}.int", integers.T if weights.axis == 0 else integers)
    # the integers of one step have one zero point, which is all that MatMulInteger needs to know of them
    point = add_initializer(graph, f"{name}.zero_point", np.asarray(shift, integers.dtype))
    step = weights.quantizer.step
    steps = add_initializer(graph, f"{name}.scale", step[0] if (step == step[0]).all() else step)
    label = str(node.outputs[0].name)
    sums = new_node(graph, "MatMulInteger", [x, matrix, zero, point], f"{label}.sums", INT32)
    floats = new_node(graph, "Cast", [sums.outputs[0]], f"{label}.floats", FLOAT, to=int(FLOAT))
    unit = new_node(graph, "Mul", [scale, steps], f"{label}.unit", FLOAT)
    made = [
        sums,
        floats,
        unit,
        new_node(graph, "Mul", [floats.outputs[0], unit.outputs[0]], f"{label}.restored", FLOAT),
    ]
    if weights.bias is not None:
        bias = add_initializer(graph, f"{name}.bias", weights.bias)
        made.append(new_node(graph, "Add", [made[-1].outputs[0], bias], f"{label}.shifted", FLOAT))
    return made
