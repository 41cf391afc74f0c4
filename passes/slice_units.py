"""slice-units: cuts the chosen units out of every stored tensor and rewrites every size that changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from getac.axes.analysis import Analysis
from getac.axes.axis import kept
from getac.errors import OptionError, UnsupportedModelError
from getac.onnx_graph.edit import (
    Array,
    add_initializer,
    array_of,
    insert_after,
    own_input,
    replace_tensor,
    set_input,
)
from getac.onnx_graph.slicing import OnnxEditor
from getac.pipeline import Effect, Fact, Refusal, State
from getac.slicing import cut_units
from getac.units.bundles import CUT
from getac.units.choice import BiasFold, Choice, check_options

__all__ = ["SliceUnits"]

CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class SliceUnits:
    """Cuts the chosen units out: the result computes what the model computes with them masked.

    Args:
        sparsity: The share of units to remove, where no choose-units stands before: the pipeline puts one
            there. None: the choice has been made.
        align: Likewise, the multiple that channel counts are kept at.

    Raises:
        OptionError: An option is outside its domain; or, from `run`, one is given and the choice has been
            made by somebody else.
    """

    sparsity: float | None = None
    align: int | None = None

    name: ClassVar[str] = "slice-units"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.AXES, Fact.CHOSEN})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.SLICED})
    keeps: ClassVar[frozenset[Fact]] = frozenset({Fact.QUANTIZERS_FOLDED, Fact.BATCH_NORMS_FOLDED})
    effect: ClassVar[Effect] = Effect.REMOVES

    def __post_init__(self) -> None:
        check_options(self.sparsity, self.align)

    def run(self, state: State) -> None:
        self.check(state)
        analysis, choice = state.analysis, state.choice
        assert analysis is not None and choice is not None
        if not isinstance(state.program, ir.Model):
            slice_module(state, analysis, choice)
            return
        additions = [(fold, constant_of(fold, analysis, choice)) for fold in choice.folds]
        cut_units(OnnxEditor(state.model.graph), analysis, choice.masks)
        for fold, constant in additions:  # to biases that are cut by now, like the constants
            add_to_bias(fold, constant, state)
        slice_quantizers(state, analysis, choice)

    def check(self, state: State) -> None:
        """Options that nobody looks at would be a lie."""
        chosen = [record for record in state.records if record.name == "choose-units"]
        if (self.sparsity, self.align) != (None, None) and not (chosen and chosen[-1].added):
            raise OptionError(
                "slice-units has options, and the units are chosen already",
                where=f"sparsity {self.sparsity}, align {self.align}",
                hint="give them to choose-units; or leave choose-units out, and give slice-units a sparsity",
            )


def slice_module(state: State, analysis: Analysis, choice: Choice) -> None:
    """The same on a torch.fx module, which is regenerated smaller."""
    from getac.training.regenerating import regenerate  # whoever has a module has imported torch

    if choice.folds:
        raise UnsupportedModelError(
            "dead units leave constants behind, which only slicing of an ONNX model moves into biases",
            where=", ".join(fold.node.name for fold in choice.folds),
            hint="choose-units with a sparsity, or export the module first",
        )
    names = {one.atom: one.name for one in analysis.classes}
    regenerate(state.module, {names[atom]: mask for atom, mask in choice.masks.items()}, wishes=state.wishes)


def slice_quantizers(state: State, analysis: Analysis, choice: Choice) -> None:
    for value, quantizer in state.quantizers.items():
        axes = analysis.axes.get(value)
        if axes is None or quantizer.axis is None:
            continue
        for dimension in range(len(axes)) if quantizer.block is not None else (quantizer.axis,):
            mask = kept(axes[dimension], choice.masks)
            state.quantizers[value] = state.quantizers[value].take(mask, dimension)
        if quantizer.block is not None and state.quantizers[value].block != quantizer.block:
            value.meta[CUT] = True
            reason = (
                f"units went that cut its blocks of {quantizer.block}, which leaves each row its own steps"
            )
            state.refuse(SliceUnits.name, Refusal(str(value.name), reason, "choose-units keeps blocks whole"))


def constant_of(fold: BiasFold, analysis: Analysis, choice: Choice) -> Array:
    """What the removed units' constants contribute to the sums of a node, of which units may go as well.

    Shape (units of the node that stay,). Must be called while the weight is whole.
    """
    node, rule = fold.node.identity, fold.node.rule
    assert isinstance(node, ir.Node) and rule is not None
    weight = array_of(node.inputs[1])
    sums = rule.bias_from_constants(weight.astype(np.float64), fold.constants).astype(weight.dtype)
    axes = analysis.axes[node.outputs[0]]
    return np.asarray(sums[kept(axes[1 if node.op_type in CONVOLUTIONS else -1], choice.masks)])


def add_to_bias(fold: BiasFold, delta: Array, state: State) -> None:
    """Adds what the removed units' constants contributed to the node's bias, making one if need be.

    before   y = Conv(x, W, b)     x[:, removed] = c
    after    y = Conv(x, W, b + sum of W[:, removed] c)

    A MatMul has no bias: it becomes a Gemm where its operands are matrices, and gets an Add otherwise. A bias
    that is computed takes nothing over: units with constants stay then.
    """
    node = fold.node.identity
    assert isinstance(node, ir.Node) and isinstance(node.graph, ir.Graph)
    if node.op_type == "MatMul" and all(rank == 2 for rank in ranks(node.inputs, state)):
        node.op_type = "Gemm"
    if node.op_type == "MatMul":
        bias = add_initializer(node.graph, f"{node.outputs[0].name}.constant", delta)
        add = ir.node("Add", [node.outputs[0], bias], name=f"{node.name}.constant")
        add.outputs[0].name = f"{node.outputs[0].name}.shifted"
        add.outputs[0].type = node.outputs[0].type
        insert_after(node, add)
        return
    if node.op_type == "Gemm":
        delta = (delta / node.attributes.get_float("beta", 1.0)).astype(delta.dtype)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = own_input(node, 2)
        replace_tensor(bias, (array_of(bias) + delta).astype(delta.dtype))
    else:
        set_input(node, 2, add_initializer(node.graph, f"{node.outputs[0].name}.constant", delta))


def ranks(values: Sequence[ir.Value | None], state: State) -> list[int]:
    """The ranks of a node's inputs, -1 where one is unknown."""
    assert state.shapes is not None
    sizes = [state.shapes.sizes(value) if value is not None else None for value in values]
    return [-1 if one is None else len(one) for one in sizes]
