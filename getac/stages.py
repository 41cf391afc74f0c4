"""What must be true of a model for each fact that is claimed of it: the language of every stage."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from getac.axes.axis import resolve
from getac.onnx_graph.provenance import named
from getac.pipeline import Check, Fact, State
from getac.placement.placement import LAYERS, is_layer, place
from getac.views import view_of

__all__ = ["LANGUAGE", "MODULE_LANGUAGE"]


def nodes_of(state: State, *op_types: str) -> list[ir.Node]:
    return [n for n in state.model.graph if n.op_type in op_types and n.domain in ("", "ai.onnx")]


def made(value: ir.Value) -> str:
    """An activation, and the node that makes it."""
    producer = value.producer()
    return str(value.name) if producer is None else f"{value.name}, made by {named(producer)},"


def refused(state: State, pass_name: str) -> set[str]:
    return {refusal.where for refusal in state.refusals.get(pass_name, [])}


def quantizers_folded(state: State) -> str | None:
    """Every quantizer left in the graph was refused, and every record has as many steps as its axis."""
    allowed = refused(state, "fold-quantizers")
    for node in nodes_of(state, "DequantizeLinear"):
        if (node.name or node.op_type) not in allowed:
            return f"{named(node)} is neither folded nor refused"
    for value, record in state.quantizers.items():
        shape = None if value.const_value is None else tuple(value.const_value.shape.numpy())
        if shape is not None and record.axis is not None and not record.fits(shape):
            size = shape[record.axis]
            return f"the quantizer of {value.name} has {record.step.size} steps for {size} channels"
    return None


def batch_norms_folded(state: State) -> str | None:
    allowed = refused(state, "fold-batch-norm")
    for node in nodes_of(state, "BatchNormalization"):
        if (node.name or node.op_type) not in allowed:
            return f"{named(node)} is neither folded nor refused"
    return None


def shapes_inferred(state: State) -> str | None:
    if state.shapes is None:
        return "there are no shapes"
    for value in state.model.graph.initializers.values():
        if value not in state.shapes.dims:
            return f"the stored tensor {value.name} has no shape"
    return None


def axes_inferred(state: State) -> str | None:
    """Classes are open atoms, and their members are tensors of this graph with dimensions of that size."""
    if state.analysis is None:
        return "there is no analysis"
    onnx = isinstance(state.program, ir.Model)
    stored = set(state.model.graph.initializers.values() if onnx else view_of(state).parameters)
    for one in state.analysis.classes:
        if one.atom.frozen is not None or resolve(one.atom) is not one.atom:
            return f"{one.name} is not an open class"
        for member in one.members:
            if member.parameter not in stored:
                return f"{one.name} has the member {member.name}, which is not stored in the graph"
    return None


def units_chosen(state: State) -> str | None:
    """Only open classes lose units, and none loses all."""
    if state.choice is None or state.analysis is None:
        return "there is no choice"
    atoms = {one.atom: one for one in state.analysis.classes}
    for atom, mask in state.choice.masks.items():
        if atom not in atoms:
            return "a class that is not open loses units"
        if mask.shape != (atom.size,) or not mask.any():
            return f"{atoms[atom].name} would keep {int(mask.sum())} of {atom.size} units"
    return None


def stored_tensors_fit(state: State) -> str | None:
    for value in state.model.graph.initializers.values():
        if value.const_value is not None and value.shape != value.const_value.shape:
            return f"{value.name} is declared {value.shape} and stored {value.const_value.shape}"
    return None


def activations_quantized(state: State) -> str | None:
    calibrated = state.calibration is not None
    for value in place(state.model.graph, state.quantizers, calibrated, state.floats).values:
        if value not in state.quantizers:
            return f"{made(value)} has no quantizer"
    return None


def weights_quantized(state: State) -> str | None:
    for node in nodes_of(state, *LAYERS):
        weight = node.inputs[1]
        if not is_layer(node) or weight is None or weight.dtype is not ir.DataType.FLOAT:
            continue
        if weight not in state.quantizers:
            return f"{weight.name}, the weight of {named(node)}, has no quantizer"
    return None


def layers_lowered(state: State) -> str | None:
    """Every layer that still stores float weights was refused."""
    allowed = refused(state, "store-weights") | refused(state, "lower-integers")
    for node in nodes_of(state, *LAYERS):
        if is_layer(node) and (node.name or node.op_type) not in allowed:
            return f"{named(node)} has neither stored integers nor a reason"
    return None


LANGUAGE: Mapping[Fact, Check] = {
    Fact.QUANTIZERS_FOLDED: quantizers_folded,
    Fact.BATCH_NORMS_FOLDED: batch_norms_folded,
    Fact.SHAPES: shapes_inferred,
    Fact.AXES: axes_inferred,
    Fact.CHOSEN: units_chosen,
    Fact.SLICED: stored_tensors_fit,
    Fact.CALIBRATED: activations_quantized,
    Fact.WEIGHTS_QUANTIZED: weights_quantized,
    Fact.LOWERED: layers_lowered,
}


MODULE_LANGUAGE: Mapping[Fact, Check] = {Fact.AXES: axes_inferred, Fact.CHOSEN: units_chosen}
"""Of a captured torch.fx module, whose shapes and quantizers stand in its graph."""
