"""lower-integers: layers and what lies between them run on integers, by the forms that onnxruntime fuses.

before   x -> Conv(W, b) -> Relu -> y          x, y: values with quantizers
after    x -> Q -> DQ -> Conv(DQ(W_int8), DQ(b_int32)) -> Q -> DQ -> y

Where a bias of INT32 would change results, a Gemm leaves it to an Add of floats; a Conv has steps with which
it does not, its input's in finer ones if need be, or stays in floats (`getac.placement.biases`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from getac.kernels.integers import bias_integers, floored_steps
from getac.layers import read_weights, set_normal_form
from getac.onnx_graph.edit import array_of, is_stored, set_input
from getac.onnx_graph.finer_reading import read_finer
from getac.onnx_graph.packing.ways import Target
from getac.onnx_graph.packing.weights import pack_weights, target_of
from getac.onnx_graph.qdq import barrier, dequantized_bias, dequantized_weight, quantize_activation
from getac.onnx_graph.rearranging import moved_up_to, rounded_by_pair
from getac.pipeline import Effect, Fact, Refusal, State
from getac.placement.biases import Finer, IntegerBias, occupied
from getac.placement.clipping import CLIPPING
from getac.placement.integer_operators import hands_scale_on
from getac.placement.placement import Placement, is_layer
from getac.placement.settling import bias_of, finer_readings, settle
from getac.quantizer import Quantizer

__all__ = ["LowerIntegers"]


@dataclass(frozen=True)
class LowerIntegers:
    """Makes layers run on integers: Q/DQ pairs on activations, INT8 weights per output unit, INT32 biases.

    Args:
        target: Who loads the model, "portable" or "ort": weights are packed for it at once, as pack-weights
            does; None: they stay as they are, for passes that follow.

    Raises:
        OptionError: No such target.
    """

    target: Literal["portable", "ort"] | None = None

    name: ClassVar[str] = "lower-integers"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.CALIBRATED, Fact.WEIGHTS_QUANTIZED})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.LOWERED})
    keeps: ClassVar[frozenset[Fact]] = frozenset(
        {Fact.SLICED, Fact.BATCH_NORMS_FOLDED, Fact.WEIGHTS_QUANTIZED}
    )
    effect: ClassVar[Effect] = Effect.KERNELS

    def __post_init__(self) -> None:
        if self.target is not None:
            target_of(self.target)

    def run(self, state: State) -> None:
        graph = state.model.graph
        calibrated = state.calibration is not None
        placement, biases = settle(graph, state.quantizers, calibrated, state.floats)
        for node, reason in placement.why_not.items():
            state.refuse(self.name, Refusal(node.name or node.op_type, reason, "it runs in floats"))
        lower_layers(state, placement, biases)
        finer = finer_readings(placement, biases)
        write_pairs(state, placement, {node.inputs[0] for node in finer})
        for node, times in finer.items():
            read_finer(node, times)
        for node in placement.absorbed:
            absorb(node)
        keep_apart(graph, placement)
        if self.target is not None:
            self.pack(target_of(self.target), state)

    def pack(self, target: Target, state: State) -> None:
        why_not = pack_weights(state.model, target)
        if why_not is not None:
            state.refuse(self.name, Refusal("the graph", why_not, "integers of 2 bits are stored in bytes"))


def lower_layers(state: State, placement: Placement, biases: Mapping[ir.Node, IntegerBias]) -> None:
    """Stores the weights of all integer layers, in order, so that the same model gives the same file."""
    stored: dict[ir.Value, ir.Node] = {}
    for node in list(state.model.graph):
        weight = node.inputs[1] if node in placement.integer and is_layer(node) else None
        if weight is not None:
            share_storage(lower_layer(node, state, biases.get(node)), stored, weight)


def write_pairs(state: State, placement: Placement, read_finely: Collection[ir.Value | None]) -> None:
    """Puts a pair behind every activation that needs one of its own."""
    for value in placement.values:
        quantizer, dtype = state.quantizers.pop(value), state.dtype_of(value)
        if value in read_finely or not placement.is_on_lattice(value):
            keep = value.producer() is None or not placement.writes_integers(value)
            quantize_activation(state.model.graph, value, quantizer, keep_outputs=keep, dtype=dtype)


def keep_apart(graph: ir.Graph, placement: Placement) -> None:
    """Puts copies where onnxruntime would make another layer, or another pair, of what stands there."""
    for node in list(graph):
        is_float_layer = node in placement.why_not and rounded_by_pair(node.inputs[0])
        if is_float_layer or rounds_output(node) or is_requantized(node) or is_transposed_gemm(node):
            barrier(node, 0)


def rounds_output(node: ir.Node) -> bool:
    """Whether onnxruntime may move a QuantizeLinear up to a graph output."""
    x = node.inputs[0] if node.op_type == "QuantizeLinear" else None
    return x is not None and any(one.is_graph_output() for one in moved_up_to(x))


def lower_layer(node: ir.Node, state: State, form: IntegerBias | None) -> ir.Node:
    """Replaces a layer's float weights and bias by stored integers; returns what restores the weights."""
    weight, x = node.inputs[1], node.inputs[0]
    assert weight is not None and x is not None
    if node.op_type == "MatMul" and rank_of(x, state) == 2:
        node.op_type = "Gemm"  # a MatMul in front of an Add becomes a Gemm of floats in onnxruntime
    weights = read_weights(node, state.quantizers[weight])
    if form is not None:
        weights = form.put_in(weights)
    set_normal_form(node, weights)
    finer = Finer() if form is None else form.finer
    input_step = np.float32(state.quantizers[x].step) / np.float32(finer.inputs)
    # Also a step that stands in the file may have to grow: a bias that overflows is wrong altogether.
    free = ~weights.weight.any(axis=tuple(i for i in range(weights.weight.ndim) if i != weights.axis))
    # Without a bias, a head that is tied to a table keeps the table's integers.
    lattice = weights.quantizer if form is None else finer_lattice(occupied(weights), finer.weights)
    steps = np.where(free, np.float32(0), lattice.step)  # the bias alone settles these
    steps = floored_steps(steps, weights.bias, float(input_step))
    quantizer, rounded = replace(lattice, step=steps), weights.quantizer.quantize(weights.weight)
    restored = dequantized_weight(node, weight.name or "weight", rounded, quantizer)
    node.replace_input_with(1, restored)
    bias = bias_of(node)
    if weights.bias is not None and bias is not None:
        scale = (input_step * steps).astype(np.float32)
        integers = bias_integers(weights.bias, scale)
        set_input(node, 2, dequantized_bias(node, bias.name or "bias", integers, scale))
    restoring = restored.producer()
    assert restoring is not None
    return restoring


def share_storage(restoring: ir.Node, stored: dict[ir.Value, ir.Node], weight: ir.Value) -> None:
    """Layers of one weight store its integers once, where these are the same."""
    first, graph = stored.setdefault(weight, restoring), restoring.graph
    pairs = list(zip(restoring.inputs, first.inputs, strict=True))
    same = all(np.array_equal(array_of(one), array_of(other)) for one, other in pairs)
    if first is restoring or not same or not isinstance(graph, ir.Graph):
        return
    for index, (own, other) in enumerate(pairs):
        restoring.replace_input_with(index, other)
        if own is not None:
            graph.initializers.pop(str(own.name))


def finer_lattice(quantizer: Quantizer, factor: int) -> Quantizer:
    """The lattice of INT8 that holds all points of a coarser one, so many steps apart.

    A bias is stored in steps of s_x s_w: at few bits these are so large that its rounding would show.
    """
    return replace(
        quantizer,
        step=(quantizer.step / np.float32(factor)).astype(np.float32),
        low=quantizer.low * factor,
        high=quantizer.high * factor,
    )


def rank_of(value: ir.Value, state: State) -> int | None:
    sizes = state.shapes.sizes(value) if state.shapes is not None else None
    shape = value.shape if sizes is None else sizes
    return None if shape is None else len(shape)


def is_requantized(node: ir.Node) -> bool:
    """Whether a QuantizeLinear follows another quantizer, with no operator of its own kernel between them.

    onnxruntime makes one pair of the two, with the scale of the second: the rounding of the first is lost.
    """
    if node.op_type != "QuantizeLinear":
        return False
    x = node.inputs[0]
    producer = x.producer() if x is not None else None
    while producer is not None and (producer.op_type in CLIPPING or hands_scale_on(producer)):
        x = producer.inputs[0]
        producer = x.producer() if x is not None else None
    if producer is None or producer.op_type != "DequantizeLinear":
        return False
    pairs = list(zip_longest(producer.inputs[1:], node.inputs[1:]))
    return not all(one is other or equal_numbers(one, other) for one, other in pairs)


def equal_numbers(one: ir.Value | None, other: ir.Value | None) -> bool:
    """Whether two values are stored, and the same; an absent zero point counts as another one."""
    return is_stored(one) and is_stored(other) and np.array_equal(array_of(one), array_of(other))


def is_transposed_gemm(node: ir.Node) -> bool:
    """Whether a Transpose follows an integer Gemm: onnxruntime makes one Gemm of floats of the two."""
    x = node.inputs[0] if node.op_type == "Transpose" else None
    producer = x.producer() if x is not None else None
    return producer is not None and producer.op_type == "Gemm" and rounded_by_pair(producer.inputs[0])


def absorb(node: ir.Node) -> None:
    """Removes a clipping node whose output's quantizer clips as much."""
    x, output = node.inputs[0], node.outputs[0]
    assert x is not None and isinstance(node.graph, ir.Graph)
    for user, index in list(output.uses()):
        user.replace_input_with(index, x)
    node.graph.remove(node, safe=True)
