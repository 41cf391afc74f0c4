"""slice-units: cuts the chosen units out of every stored tensor and rewrites every size that changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from getac.axes.analysis import Analysis
from getac.axes.axis import kept
from getac.choice import BiasFold, Choice
from getac.onnx_graph.edit import (
    add_initializer,
    array_of,
    insert_after,
    is_stored,
    own_input,
    replace_tensor,
    set_input,
)
from getac.onnx_graph.sites import write_sites
from getac.pipeline import Fact, State

__all__ = ["SliceUnits"]


@dataclass(frozen=True)
class SliceUnits:
    """Carries out `State.choice`: the result computes what the masked model computes."""

    name: ClassVar[str] = "slice-units"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.AXES, Fact.CHOSEN})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.SLICED})
    keeps: ClassVar[frozenset[Fact]] = frozenset({Fact.QUANTIZERS_FOLDED, Fact.BATCH_NORMS_FOLDED})

    def run(self, state: State) -> None:
        analysis, choice = state.analysis, state.choice
        assert analysis is not None and choice is not None
        for fold in choice.folds:
            add_to_bias(fold)
        slice_tensors(state, analysis, choice)
        slice_quantizers(state, analysis, choice)
        write_sites(analysis.sites, choice.masks)
        if choice.masks:
            forget_shapes(state.model.graph)


def slice_tensors(state: State, analysis: Analysis, choice: Choice) -> None:
    for value in analysis.parameters:
        assert isinstance(value, ir.Value)
        masks = analysis.keep_masks(value, choice.masks)
        if masks is None or all(mask.all() for mask in masks):
            continue
        array = array_of(value)
        for dimension, mask in enumerate(masks):
            if not mask.all():
                array = np.compress(mask, array, axis=dimension)
        replace_tensor(value, array)


def slice_quantizers(state: State, analysis: Analysis, choice: Choice) -> None:
    for value, quantizer in state.quantizers.items():
        axes = analysis.axes.get(value)
        if axes is not None and quantizer.axis is not None:
            mask = kept(axes[quantizer.axis], choice.masks)
            state.quantizers[value] = quantizer.take(mask, quantizer.axis)


def add_to_bias(fold: BiasFold) -> None:
    """Adds what the removed units' constants contributed to the node's bias, making one if need be.

    before   y = Conv(x, W, b)     x[:, removed] = c
    after    y = Conv(x, W, b + sum of W[:, removed] c)
    """
    node, rule = fold.node.identity, fold.node.rule
    assert isinstance(node, ir.Node) and rule is not None and isinstance(node.graph, ir.Graph)
    weight = array_of(node.inputs[1])
    delta = rule.bias_from_constants(weight.astype(np.float64), fold.constants).astype(weight.dtype)
    if node.op_type == "MatMul":
        bias = add_initializer(node.graph, f"{node.outputs[0].name}.constant", delta)
        add = ir.node("Add", [node.outputs[0], bias], name=f"{node.name}.constant")
        add.outputs[0].name = f"{node.outputs[0].name}.shifted"
        add.outputs[0].type = node.outputs[0].type
        insert_after(node, add)
    elif len(node.inputs) > 2 and is_stored(node.inputs[2]):
        bias = own_input(node, 2)
        scale = node.attributes.get_float("beta", 1.0) if node.op_type == "Gemm" else 1.0
        replace_tensor(bias, (array_of(bias) + np.asarray(delta) / scale).astype(weight.dtype))
    else:
        set_input(node, 2, add_initializer(node.graph, f"{node.outputs[0].name}.constant", delta))


def forget_shapes(graph: ir.Graph) -> None:
    """Declared shapes of intermediate values are stale; graph inputs and outputs never change."""
    outside = {*graph.inputs, *graph.outputs}
    for node in graph:
        for value in node.outputs:
            if value not in outside:
                value.shape = None
