"""fold-batch-norm: a batch normalisation behind its own convolution or Gemm becomes part of its weights.

before   y = BatchNorm(Conv(x, W, b); gamma, beta, mean, var)
after    y = Conv(x, s W, s (b - mean) + beta)      s = gamma / sqrt(var + epsilon), per output channel

A quantized weight keeps its integers: W = d k becomes (d |s|) (k sgn s), with a step per output channel. So
what was trained with fake quantizers in front of batch normalisations runs on the integers of its training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from getac.onnx_graph.edit import (
    Array,
    add_initializer,
    array_of,
    is_stored,
    own_input,
    replace_tensor,
    set_input,
)
from getac.pipeline import Fact, Refusal, State
from getac.placement.placement import output_dimension
from getac.quantizer import Quantizer
from getac.rescaling import Unscalable, rescaled

__all__ = ["FoldBatchNorm"]

Floats = npt.NDArray[np.float64]

LAYERS = ("Conv", "ConvTranspose", "Gemm")


@dataclass(frozen=True)
class FoldBatchNorm:
    """Folds inference-mode BatchNormalization into the convolution or Gemm that feeds nothing else."""

    name: ClassVar[str] = "fold-batch-norm"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.QUANTIZERS_FOLDED})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.BATCH_NORMS_FOLDED})
    keeps: ClassVar[frozenset[Fact]] = frozenset({Fact.QUANTIZERS_FOLDED})

    def run(self, state: State) -> None:
        for node in list(state.model.graph):
            if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
                continue
            reason = why_not(node, state) or fold(node, state)
            if reason is not None:
                state.refuse(self.name, Refusal(node.name or "BatchNormalization", reason))


def why_not(norm: ir.Node, state: State) -> str | None:
    """Why a batch normalisation cannot be folded; None if it can."""
    layer = norm.inputs[0].producer() if norm.inputs[0] is not None else None
    if layer is None or layer.op_type not in LAYERS or layer.domain not in ("", "ai.onnx"):
        return f"it follows {layer.op_type if layer else 'a graph input'}, not a convolution or Gemm"
    name = layer.name or layer.op_type
    if len(layer.outputs[0].uses()) != 1 or layer.outputs[0].is_graph_output():
        return f"the output of {name} is also used elsewhere"
    stored = [*layer.inputs[1:], *norm.inputs[1:]]
    if not all(value is None or is_stored(value) for value in stored):
        return "a parameter is computed when the graph runs"
    if any(value in state.quantizers for value in [*layer.inputs[2:], layer.outputs[0]]):
        return f"the bias or the output of {name} is already quantized"
    if len(norm.outputs) > 1 or norm.attributes.get_int("training_mode", 0) == 1:
        return "it normalises in training mode"
    return None


def fold(norm: ir.Node, state: State) -> str | None:
    """Folds a batch normalisation, or says why the numbers do not allow it."""
    assert norm.inputs[0] is not None
    layer = norm.inputs[0].producer()
    assert layer is not None and layer.inputs[1] is not None
    name = layer.name or layer.op_type
    scale, bias = scale_and_bias(layer, norm)
    if bias.ndim != 1:
        return f"the bias of {name} differs from row to row"
    if not (np.isfinite(scale).all() and np.isfinite(bias).all()):
        return f"the folded weight or bias of {name} would not be finite"
    try:
        weight, record = scaled_weight(layer, scale, state.quantizers.get(layer.inputs[1]))
    except Unscalable as error:
        return f"the quantized weight of {name} cannot be scaled: {error}"
    if not np.isfinite(weight).all():
        return f"the folded weight or bias of {name} would not be finite"
    replace_inputs(layer, weight, record, bias, state)
    quantizer = state.quantizers.pop(norm.outputs[0], None)
    if quantizer is not None:
        state.quantizers[layer.outputs[0]] = quantizer
    take_over_output(layer, norm)
    return None


def scale_and_bias(layer: ir.Node, norm: ir.Node) -> tuple[Floats, Array]:
    """s, and the bias of the layer that does both, in the weight's type."""
    gamma, beta, mean, var = (array_of(value).astype(np.float64) for value in norm.inputs[1:5])
    with np.errstate(all="ignore"):  # what does not come out finite is refused
        scale = gamma / np.sqrt(var + norm.attributes.get_float("epsilon", 1e-5))
        bias = scale * (bias_of(layer) - mean) + beta
        return scale, bias.astype(array_of(layer.inputs[1]).dtype)


def scaled_weight(layer: ir.Node, scale: Floats, record: Quantizer | None) -> tuple[Array, Quantizer | None]:
    """The weight with every output channel multiplied by its scale, and its record if it has one."""
    weight = array_of(layer.inputs[1])
    factors = along_outputs(layer, scale, weight.shape)
    if record is not None:
        # The output channels of a grouped ConvTranspose lie in two dimensions: outermost is its group.
        axes = (1, 0) if layer.op_type == "ConvTranspose" else (output_dimension(layer),)
        return rescaled(weight, record, factors, axes)
    with np.errstate(over="ignore"):  # as above
        return (weight.astype(np.float64) * factors).astype(weight.dtype), None


def along_outputs(layer: ir.Node, scale: Floats, shape: tuple[int, ...]) -> Floats:
    """A number per output channel, shaped to broadcast against the weight."""
    ones = [1] * (len(shape) - 2)
    if layer.op_type != "ConvTranspose":
        return scale.reshape([-1 if i == output_dimension(layer) else 1 for i in range(len(shape))])
    groups = layer.attributes.get_int("group", 1)  # (groups x in, out, ...)
    return np.repeat(scale.reshape(groups, -1), shape[0] // groups, axis=0).reshape(*shape[:2], *ones)


def replace_inputs(
    layer: ir.Node, weight: Array, record: Quantizer | None, bias: Array, state: State
) -> None:
    own = own_input(layer, 1)
    replace_tensor(own, weight)
    if record is not None:
        state.quantizers[own] = record
    set_bias(layer, bias)


def bias_of(layer: ir.Node) -> Floats:
    """What the layer adds to each output channel, to be broadcast; a Gemm's may be a matrix."""
    if len(layer.inputs) < 3 or layer.inputs[2] is None:
        return np.zeros(1)
    bias = array_of(layer.inputs[2]).astype(np.float64)
    bias = bias.reshape(-1) if bias.shape[:-1] in ((), (1,)) else bias
    return bias * (layer.attributes.get_float("beta", 1.0) if layer.op_type == "Gemm" else 1.0)


def set_bias(layer: ir.Node, bias: npt.NDArray[np.generic]) -> None:
    assert isinstance(layer.graph, ir.Graph) and layer.inputs[1] is not None
    if layer.op_type == "Gemm" and "beta" in layer.attributes:
        layer.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    if len(layer.inputs) > 2 and layer.inputs[2] is not None and layer.inputs[2].shape == bias.shape:
        replace_tensor(own_input(layer, 2), bias)
    else:
        set_input(layer, 2, add_initializer(layer.graph, f"{layer.inputs[1].name}.folded_bias", bias))


def take_over_output(layer: ir.Node, norm: ir.Node) -> None:
    """The layer produces what the normalisation did, under its name."""
    graph = norm.graph
    assert isinstance(graph, ir.Graph)
    before, after = layer.outputs[0], norm.outputs[0]
    name, was_output = after.name, after.is_graph_output()
    for user, index in list(after.uses()):
        user.replace_input_with(index, before)
    if was_output:
        graph.outputs[list(graph.outputs).index(after)] = before
    before.type, before.shape = after.type or before.type, after.shape or before.shape
    graph.remove(norm, safe=True)
    before.name = name
