"""mean-to-pool: the mean of every image of a channel is a GlobalAveragePool, which has an integer kernel.

    before   y = ReduceMean(x, axes=[2, 3], keepdims=1)       x (N, C, H, W), y (N, C, 1, 1)
    after    y = GlobalAveragePool(x)

    before   y = ReduceMean(x, axes=[2, 3], keepdims=0)       y (N, C)
    after    y = Flatten(GlobalAveragePool(x))

Only floats: onnxruntime has no GlobalAveragePool of another type.

A squeeze-and-excitation block on integers takes 2/3 of the time then (onnxruntime 1.31).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from getac.onnx_graph.edit import array_of, is_stored
from getac.onnx_graph.qdq import new_node
from getac.onnx_graph.shapes import open_shapes
from getac.pipeline import Fact, State

__all__ = ["MeanToPool"]

RANK = 4
POOLED = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@dataclass(frozen=True)
class MeanToPool:
    """Turns ReduceMean over the last two of four dimensions into GlobalAveragePool."""

    name: ClassVar[str] = "mean-to-pool"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.SHAPES, Fact.QUANTIZERS_FOLDED})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.SHAPES})
    keeps: ClassVar[frozenset[Fact]] = frozenset(Fact) - {Fact.AXES, Fact.CHOSEN}

    def run(self, state: State) -> None:
        graph = state.model.graph
        means = [node for node in graph if is_mean_of_images(node, state)]
        for node in means:
            pool(node, state.dtype_of(node.outputs[0]))
        if means:
            state.shapes = open_shapes(state.model, state.bindings)


def is_mean_of_images(node: ir.Node, state: State) -> bool:
    if node.op_type != "ReduceMean" or node.domain not in ("", "ai.onnx") or len(node.inputs) < 2:
        return False
    x, axes = node.inputs[0], node.inputs[1]
    assert state.shapes is not None
    if x is None or axes is None or not is_stored(axes) or len(state.shapes.sizes(x) or ()) != RANK:
        return False
    if state.dtype_of(node.outputs[0]) not in POOLED:
        return False
    return sorted(int(axis) % RANK for axis in array_of(axes).reshape(-1)) == [2, 3]


def pool(node: ir.Node, dtype: ir.DataType) -> None:
    """The node that made the mean makes what it made; its output stays, with all that is known of it."""
    x, graph = node.inputs[0], node.graph
    assert x is not None and isinstance(graph, ir.Graph)
    keeps_dimensions = node.attributes.get_int("keepdims", 1)
    node.attributes.clear()
    node.resize_inputs(1)
    if keeps_dimensions:
        node.op_type = "GlobalAveragePool"
        return
    mean = new_node(graph, "GlobalAveragePool", [x], f"{node.outputs[0].name}.mean", dtype)
    graph.insert_before(node, mean)
    node.op_type = "Flatten"
    node.attributes["axis"] = ir.AttrInt64("axis", 1)
    node.replace_input_with(0, mean.outputs[0])
