"""Which way of running each layer is the quickest, by the cost table, where the function stays the same.

What there is to choose from:

- an integer kernel, where there is one and its activations have quantizers or can be calibrated;
- floats: quantizers that the model came with stay on its activations, written out between floats.

MatMulNBits quantizes activations on the fly, which the model does not ask for: it is never chosen instead of
an integer kernel.

A layer leaves the integers if that makes the whole graph quicker: next to layers that stay, its activations
change their type and layout, and additions follow their operands.

    T = call + sum of layers + elements of additions + elements of activations that change their type
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from getac.axes.meter import Sizes
from getac.kernel_costs import CostTable, Kind, LayerShape, Strategy
from getac.kernel_costs.layers import shape_of
from getac.onnx_graph.edit import is_stored
from getac.onnx_graph.view import OnnxView
from getac.placement.clipping import CLIPPING, carrier
from getac.placement.placement import Placement, is_layer, place
from getac.quantizer import Quantizer

__all__ = ["Estimate", "choose_floats"]

MARGIN = 0.1
"""The share of a layer's time that another strategy must save: less is within what a table tells."""

LEAST_GAIN = 20e-6
"""Seconds that it must save: less is a few times what a call of onnxruntime takes, and lost in noise."""

Quantizers = Mapping[ir.Value, Quantizer]


@dataclass(frozen=True)
class Estimate:
    """Predicts the time of a graph under different placements.

    Args:
        view: The graph; its sizes are those that the prediction is for.
        sizes: A value's sizes; None where they are unknown: it counts nothing then.
    """

    view: OnnxView
    sizes: Callable[[ir.Value], Sizes | None]
    quantizers: Quantizers
    table: CostTable

    @cached_property
    def shapes(self) -> dict[ir.Node, LayerShape]:
        """The nodes that multiply."""
        found = {node.node: shape_of(node, self.sizes) for node in self.view.nodes}  # type: ignore[arg-type]
        return {node: shape for node, shape in found.items() if shape is not None}

    @cached_property
    def elements(self) -> dict[ir.Value, int]:
        """Activations -> their number of entries, where it is known."""
        graph = self.view.model.graph
        values = [*graph.inputs, *(output for node in graph for output in node.outputs)]
        sizes = {value: self.sizes(value) for value in values}
        return {value: math.prod(size) for value, size in sizes.items() if size is not None}

    def layer(self, node: ir.Node, integer: bool) -> float:
        """Seconds of a node that multiplies; of others 0."""
        strategy = Strategy.INTEGER if integer else Strategy.FLOAT
        return self.table.seconds(self.shapes[node], strategy) if node in self.shapes else 0.0

    def total(self, placement: Placement) -> float:
        """T, in seconds."""
        graph = self.view.model.graph
        seconds = self.table.call + sum(self.layer(node, node in placement.integer) for node in self.shapes)
        seconds += sum(self.addition(node, placement) for node in graph if node.op_type == "Add")
        seconds += sum(self.change(value, placement) for value in placement.values)
        kept = (v for v in self.quantizers if v in self.elements and v not in placement.values)
        return seconds + sum(self.written_out(value) for value in kept)

    def addition(self, node: ir.Node, placement: Placement) -> float:
        strategy = Strategy.INTEGER if node in placement.integer else Strategy.FLOAT
        if any(value is None or is_stored(value) for value in node.inputs):
            return 0.0  # a bias: it is fused into its layer
        return self.elements.get(node.outputs[0], 0) * self.table.additions[strategy]

    def change(self, value: ir.Value, placement: Placement) -> float:
        """What it takes to make the integers of a quantized value, and floats where floats read it."""
        around = self.table.transitions[kind_around(value)]
        made = value in placement.same_as or placement.writes_integers(value)
        seconds = 0.0 if made else around.to_integers
        if any(not reads_integers(user, placement) for user, _ in value.uses()):
            seconds += around.to_floats
        return seconds * self.elements.get(value, 0)

    def written_out(self, value: ir.Value) -> float:
        """A quantizer between floats, from which two copies keep all others off."""
        around = self.table.transitions[kind_around(value)]
        copies = 2 * self.table.additions[Strategy.FLOAT]
        return (around.to_integers + around.to_floats + copies) * self.elements[value]


def kind_around(value: ir.Value) -> Kind:
    """What kind of layers a value lies between: these decide on its layout."""
    nodes = [value.producer(), *(user for user, _ in value.uses())]
    return (
        Kind.CONVOLUTION
        if any(node is not None and node.op_type.startswith("Conv") for node in nodes)
        else Kind.LINEAR
    )


def reads_integers(user: ir.Node, placement: Placement) -> bool:
    """Whether a node reads a quantized value as the integers that it is; those that clip are absorbed."""
    return user in placement.integer or user.op_type in CLIPPING


def choose_floats(graph: ir.Graph, estimate: Estimate, calibrated: bool) -> dict[ir.Node, str]:
    """The layers that run on integers and would be quicker in floats -> why, in words.

    Layers are tried in the order of the graph, each with those before it decided.

    Args:
        calibrated: Whether activations without a quantizer can get one (`getac.placement.placement.place`).
    """
    floats: dict[ir.Node, str] = {}
    placement = place(graph, estimate.quantizers, calibrated)
    seconds = estimate.total(placement)
    for node in graph:
        if not may_gain(node, placement, estimate):
            continue
        trial = place(graph, estimate.quantizers, calibrated, {**floats, node: "tried"})
        saved = seconds - estimate.total(trial)
        if saved > max(LEAST_GAIN, MARGIN * estimate.layer(node, True)):
            floats[node] = words(estimate, node, saved)
            placement, seconds = trial, seconds - saved
    return floats


def can_leave(layer: ir.Node, quantizers: Quantizers) -> bool:
    """Whether only what takes integers of any layout reads the layer: layers and additions.

    onnxruntime pools integers quickly in the layout that integer convolutions write. Behind a float one it
    takes 30 times as long, even if the pooling is meant for floats: it moves QuantizeLinear in front of it.
    """
    users = carrier(layer, quantizers).uses()
    return all(is_layer(user) or user.op_type == "Add" for user, _ in users)


def may_gain(node: ir.Node, placement: Placement, estimate: Estimate) -> bool:
    """Whether floats could be quicker at all: even if every change of type around the layer went away."""
    known = node in estimate.shapes and is_layer(node) and node in placement.integer
    if not known or not can_leave(node, estimate.quantizers):
        return False
    around = [value for value in (node.inputs[0], node.outputs[0]) if value is not None]
    changes = sum(
        estimate.elements.get(value, 0) * (one.to_integers + one.to_floats)
        for value in around
        for one in [estimate.table.transitions[kind_around(value)]]
    )
    return estimate.layer(node, False) < estimate.layer(node, True) + changes - LEAST_GAIN


def words(estimate: Estimate, node: ir.Node, saved: float) -> str:
    floats, integers = (milliseconds(estimate.layer(node, integer)) for integer in (False, True))
    return (
        f"floats are quicker: {floats} against {integers} on integers,"
        f" {milliseconds(saved)} less in all with its neighbours (cost table)"
    )


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
