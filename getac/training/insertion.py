"""Puts learnable quantizers into a captured graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter

import torch
from torch import Tensor, fx

from getac.kernels.fake_quantize import Bits
from getac.training.layers import Layer
from getac.training.placing import Place, activations_of, quantized_values, weight_name, weights_of
from getac.training.quantizers import FakeQuantizer
from getac.training.signs import non_negative_values
from getac.training.state import Insertion
from getac.training.widths import Widths

__all__ = ["insert", "names_of", "plan_activations", "plan_weights", "quantizer_name"]

KEPT_META = ("val", "nn_module_stack", "stack_trace")


def plan_weights(
    module: fx.GraphModule, layers: Sequence[Layer], widths: Widths, per_channel: bool = True
) -> list[Insertion]:
    """The quantizers of weights: `layer.weight` gets `layer.weight_quantizer`, beside the layer."""
    places = weights_of(module, layers, widths, per_channel)
    return [planned(module, place, signed=True) for place in places]


def plan_activations(module: fx.GraphModule, layers: Sequence[Layer], widths: Widths) -> list[Insertion]:
    """The quantizers of activations: the node `relu_1` gets `relu_1_quantizer`.

    A value that cannot be negative uses all integers from 0 on. A layer whose weight is left in floats on
    request needs no quantizers.
    """
    rounded = [one for one in layers if stays_quantized(one, widths)]
    positive = non_negative_values(module.graph)
    places = activations_of(module, rounded, widths)
    return [planned(module, one, signed=one.value not in positive) for one in places]


def stays_quantized(layer: Layer, widths: Widths) -> bool:
    name = weight_name(layer.weight)
    return widths.weights is None or widths.of_weight(name, at_end=False) is not None


def names_of(layers: Sequence[Layer]) -> Iterator[str]:
    """What overrides can speak of: weights, and the nodes of activations."""
    yield from (weight_name(layer.weight) for layer in layers)
    yield from (value.name for value in quantized_values(layers))


def planned(module: fx.GraphModule, place: Place, signed: bool) -> Insertion:
    name = quantizer_name(module, place.value)
    readers = tuple(reader.name for reader in place.readers)
    return Insertion(place.value.name, readers, name, place.axis, Bits(signed, *place.bounds))


def quantizer_name(module: fx.GraphModule, value: fx.Node) -> str:
    """Where the parameters of a value's quantizer are, in a graph that has none yet."""
    name = f"{weight_name(value)}_quantizer"
    while is_taken(module, name):
        name += "_"
    return name


def is_taken(module: torch.nn.Module, path: str) -> bool:
    first, _, rest = path.partition(".")
    owner = getattr(module, first, None)
    return owner is not None and (not rest or is_taken(owner, rest))


def insert(
    module: fx.GraphModule, insertions: Sequence[Insertion], maxima: Mapping[str, Tensor] | None = None
) -> None:
    """Carries out what was planned, on the same graph or on that of another capture of the model.

    Args:
        maxima: Name of a quantizer -> the greatest magnitude to cover, of shape () or (size of the axis,);
            those that are missing start at 1.

    A quantizer learns where what it rounds learns: that of the data does not, nor that of a frozen weight. To
    learn the range of the images would take their gradient, a whole convolution that nothing else needs.
    """
    nodes, frozen = {node.name: node for node in module.graph.nodes}, frozen_values(module)
    for insertion in insertions:
        x = nodes[insertion.node]
        maximum = (maxima or {}).get(insertion.name)
        if maximum is None:
            shape = () if insertion.axis is None else x.meta["val"].shape[insertion.axis]
            maximum = torch.ones(shape)
        quantizer = FakeQuantizer(maximum.to(x.meta["val"].device), insertion.bits, insertion.exponent)
        quantizer.requires_grad_(x not in frozen)
        module.add_submodule(insertion.name, quantizer)
        insert_call(module.graph, x, [nodes[name] for name in insertion.readers], insertion)
    module.recompile()


def frozen_values(module: fx.GraphModule) -> set[fx.Node]:
    """Inputs, stored tensors that do not learn, and what is computed from such alone."""
    frozen: set[fx.Node] = set()
    for node in module.graph.nodes:
        learns = node.op == "get_attr" and is_learning(attrgetter(str(node.target))(module))
        if not learns and frozen.issuperset(node.all_input_nodes):
            frozen.add(node)
    return frozen


def is_learning(stored: object) -> bool:
    return isinstance(stored, Tensor) and stored.requires_grad


def insert_call(graph: fx.Graph, x: fx.Node, readers: Sequence[fx.Node], insertion: Insertion) -> None:
    """Behind an activation; a weight's stands in front of its first reader, so that it is not held longer."""
    before = min(readers) if x.op == "get_attr" else behind(graph, x)
    with graph.inserting_before(before):
        names = ("d", "q_m", "t")[: 2 + insertion.exponent]
        found = [graph.get_attr(f"{insertion.name}.{one}") for one in names]
        parameters = [*found, *[None] * (3 - len(names))]  # without an exponent the operator is quicker
        signed, least, most = insertion.bits
        arguments = (x, *parameters, insertion.axis, signed, float(least), float(most))
        name = insertion.name.replace(".", "_")
        call = graph.create_node("call_function", torch.ops.getac.fake_quantize.default, arguments, name=name)
    origin = before if x.op == "get_attr" else x
    call.meta = {key: origin.meta[key] for key in KEPT_META if key in origin.meta}
    call.meta["val"] = x.meta["val"]
    for reader in readers:
        reader.replace_input_with(x, call)


def behind(graph: fx.Graph, x: fx.Node) -> fx.Node:
    """The node before which to insert; inputs of the graph stay together."""
    return graph.find_nodes(op="placeholder")[-1].next if x.op == "placeholder" else x.next
