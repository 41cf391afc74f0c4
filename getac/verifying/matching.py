"""Which values of two graphs are to be compared, and what is known of them without running anything.

Values are matched by name; weights are left out (`getac.verifying.dependence`). An integer value stands for
what a DequantizeLinear makes of it; a value that the other graph has only quantized is found under the name
that lowering gives it, `NAME.dq`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from getac.data.calibration import Batch
from getac.verifying.dependence import computed_values

__all__ = [
    "Pair",
    "byte_sizes",
    "common_pairs",
    "computed",
    "in_groups",
    "label",
    "output_pairs",
    "rounded_from",
    "step_of",
    "upstream",
]

# Not numbers, or of types that numpy lacks: onnxruntime cannot hand these values out.
UNFETCHABLE = frozenset(
    dtype
    for dtype in ir.DataType
    if dtype.name.startswith(("STRING", "BFLOAT16", "FLOAT8", "FLOAT4", "INT4", "UINT4", "INT2", "UINT2"))
)

# What hands values on as they are, in another arrangement.
ARRANGING = frozenset(("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"))


@dataclass(frozen=True)
class Pair:
    """One value in both graphs.

    Args:
        name: Its name in the reference.
        expected: What to fetch of the reference: the value, or what dequantizes it.
        found: What to fetch of the result.
    """

    name: str
    expected: ir.Value
    found: ir.Value


def output_pairs(reference: ir.Model, result: ir.Model) -> list[Pair]:
    """The graph outputs; both models have the same."""
    theirs = {value.name: value for value in result.graph.outputs}
    return [Pair(str(value.name), value, theirs[value.name]) for value in reference.graph.outputs]


def common_pairs(reference: ir.Model, result: ir.Model) -> list[Pair]:
    """The computed values that both main graphs have, in order, each once; no weights."""
    theirs = {value.name: value for value in computed(result)}
    pairs: dict[tuple[ir.Value, ir.Value], Pair] = {}
    for value in computed_values(reference.graph):
        found = theirs.get(value.name) or theirs.get(f"{value.name}.dq")
        if found is not None:
            ends = dequantized(value), dequantized(found)
            pairs.setdefault(ends, Pair(str(value.name), *ends))
    return list(pairs.values())


def computed(model: ir.Model) -> Iterator[ir.Value]:
    for node in model.graph:
        if node.op_type != "Constant":
            yield from (value for value in node.outputs if value.name)


def dequantized(value: ir.Value) -> ir.Value:
    """What a DequantizeLinear makes of the value, if one reads it; else the value."""
    readers = (use.node for use in value.uses() if use.node.op_type == "DequantizeLinear" and use.idx == 0)
    node = next(readers, None)
    return value if node is None else node.outputs[0]


def step_of(value: ir.Value) -> float | None:
    """The step of the quantizer that a float value comes out of; None if none does, or it has several."""
    node = value.producer()
    while node is not None and node.op_type in ARRANGING and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.op_type != "DequantizeLinear":
        return None
    scale = node.inputs[1].const_value if node.inputs[1] is not None else None
    return abs(float(scale.numpy().reshape(()))) or None if scale is not None and scale.size == 1 else None


def rounded_from(value: ir.Value) -> ir.Value:
    """The value that a quantizer rounded to give this one, also behind what cuts the integers or makes them
    finer (`getac.onnx_graph.finer_reading`); else itself.
    """
    integers = input_of(value, "DequantizeLinear")
    integers = input_of(integers, "Mul") or integers
    unclipped = input_of(integers, "Clip") or integers
    return input_of(unclipped, "QuantizeLinear") or value


def input_of(value: ir.Value | None, operator: str) -> ir.Value | None:
    """The first input of the node that makes a value, if it is this operator."""
    node = value.producer() if value is not None else None
    return node.inputs[0] if node is not None and node.op_type == operator else None


def label(value: ir.Value) -> str:
    """The node that makes a value."""
    node = value.producer()
    if node is None:
        return "an input" if value.is_graph_input() else "a stored tensor"
    return f"{node.op_type} {node.name}" if node.name else node.op_type


def upstream(value: ir.Value, known: Mapping[str, float]) -> list[tuple[str, float]]:
    """The nearest values before one that are in `known`, and graph inputs, which agree by themselves."""
    found: dict[str, float] = {}
    seen, todo = {value}, inputs_of(value)
    while todo:
        one = todo.pop(0)
        if one in seen:
            continue
        seen.add(one)
        name = str(one.name)
        if name in known:
            found[name] = known[name]
        elif one.is_graph_input() and not one.is_initializer():
            found[name] = 0.0
        else:
            todo.extend(inputs_of(one))
    return list(found.items())


def inputs_of(value: ir.Value) -> list[ir.Value]:
    node = value.producer()
    return [] if node is None else [one for one in node.inputs if one is not None]


def byte_sizes(model: ir.Model, batch: Batch) -> tuple[dict[str, int], set[str]]:
    """Value -> bytes for inputs of these sizes, where known; and the values that cannot be fetched."""
    typed = model.clone()
    for value in typed.graph.inputs:
        if value.name in batch:
            value.shape = ir.Shape(batch[value.name].shape)
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(typed)
    sizes, unfetchable = {}, set()
    for value in computed(typed):
        if value.dtype in UNFETCHABLE:
            unfetchable.add(str(value.name))
        elif value.dtype is not None and value.shape is not None and value.shape.is_static():
            sizes[str(value.name)] = math.ceil(math.prod(value.shape.numpy()) * value.dtype.itemsize)
    return sizes, unfetchable


def in_groups(pairs: Sequence[Pair], sizes: Mapping[ir.Value, int], most: int) -> Iterator[list[Pair]]:
    """The pairs in runs of at most so many bytes; one that is larger is alone."""
    group: list[Pair] = []
    total = 0
    for pair in pairs:
        size = sizes[pair.expected] + sizes[pair.found]
        if group and total + size > most:
            yield group
            group, total = [], 0
        group.append(pair)
        total += size
    if group:
        yield group
