"""What a model costs: multiply-accumulates per sample, parameters and bytes, per layer.

BOPs = sum over layers of MACs x weight bits x activation bits. Layers are the operators that multiply and
add (convolutions, matrix products; a product of two activations counts). Element-wise work is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from getac.onnx_graph.operators import rule_of
from getac.onnx_graph.shapes import infer_shapes
from getac.rules.contraction import Convolution, Gemm, MatMul

__all__ = ["LayerCost", "layer_costs", "stored_bytes", "weight_bytes"]


@dataclass(frozen=True)
class LayerCost:
    """One layer.

    Args:
        channels_in: Size of the contracted input dimension (channels of a convolution).
        channels_out: Size of the output dimension.
        macs: Multiply-accumulates per sample.
        parameters: Entries of its stored weight and bias.
    """

    name: str
    operator: str
    channels_in: int
    channels_out: int
    macs: int
    parameters: int


def layer_costs(model: ir.Model, sizes: Mapping[str, int]) -> dict[str, LayerCost]:
    """The layers of a float model, by node name, in the order of the graph.

    Args:
        sizes: A size for every symbolic dimension; 1 for the batch gives costs per sample.
    """
    shapes = infer_shapes(model, sizes)
    costs: dict[str, LayerCost] = {}
    for node in model.graph:
        rule = rule_of(node, shapes)
        inputs = [shapes.sizes(value) if value is not None else None for value in node.inputs]
        output = shapes.sizes(node.outputs[0]) if node.outputs else None
        if not isinstance(rule, Convolution | Gemm | MatMul) or output is None or None in inputs[:2]:
            continue
        into, out = channels(rule, inputs[0] or (), output)
        costs[node.name or ""] = LayerCost(
            node.name or "", node.op_type, into, out, rule.macs(inputs, output), parameter_count(node)
        )
    return costs


def channels(
    rule: Convolution | Gemm | MatMul, x: tuple[int, ...], output: tuple[int, ...]
) -> tuple[int, int]:
    if isinstance(rule, Convolution):
        return x[1], output[1]
    inner = x[0] if isinstance(rule, Gemm) and rule.transpose_a else x[-1]
    return inner, output[-1]


def parameter_count(node: ir.Node) -> int:
    stored = [value.const_value for value in node.inputs[1:] if value is not None and value.const_value]
    return sum(tensor.size for tensor in stored)


def stored_bytes(node: ir.Node) -> int:
    """Bytes of all stored tensors that only this layer's weight and bias are made of, scales included."""
    seen: set[ir.Value] = set()
    pending = [value for value in node.inputs[1:] if value is not None]
    while pending:
        value = pending.pop()
        producer = value.producer()
        if value in seen or (producer is not None and not is_constant_branch(value)):
            continue
        seen.add(value)
        pending.extend(v for v in (producer.inputs if producer is not None else ()) if v is not None)
    return sum(value.const_value.nbytes for value in seen if value.const_value is not None)


def is_constant_branch(value: ir.Value) -> bool:
    """Whether a value is computed from stored tensors alone."""
    pending, seen = [value], set()
    while pending:
        current = pending.pop()
        producer = current.producer()
        if producer is None and current.const_value is None:
            return False
        if producer is not None and producer not in seen:
            seen.add(producer)
            pending.extend(v for v in producer.inputs if v is not None)
    return True


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all stored tensors."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
