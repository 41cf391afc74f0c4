"""Decides where quantizers go in a captured graph: on which weights and activations, read by whom.

- A layer's weights, and the activations that it multiplies them by.
- A convolution's result, behind the norm and the clipping that integer kernels take into the convolution:
  onnxruntime's kernel writes integers too (`getac.placement.placement`). Linear layers may write floats.
- One quantizer per value, which all of its readers share. It sits in front of operators that only rearrange
  the value, and nothing that is picked from a quantized value gets another one.
- A graph output is never rounded itself; only what else reads it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import fx

from getac.fx_graph.call import is_tensor
from getac.fx_graph.reader import operator_name
from getac.rules.normalization import BatchNorm
from getac.training.carrying import is_copy, is_dropout, picked_from, rearranged_from, rule_of
from getac.training.layers import Layer, first_and_last, is_floating, sources
from getac.training.widths import Bounds, Widths

__all__ = ["Place", "activations_of", "quantized_values", "weight_name", "weights_of"]

CLIPPING = ("relu", "relu6", "clamp", "clamp_min", "clamp_max", "clip", "hardtanh")


@dataclass(frozen=True)
class Place:
    """A value that is to be quantized.

    Args:
        value: Its node.
        readers: The nodes that shall read it quantized.
        axis: The dimension that has a step and a range of its own per index.
        bounds: The least and the greatest number of bits.
    """

    value: fx.Node
    readers: tuple[fx.Node, ...]
    axis: int | None
    bounds: Bounds


def weights_of(
    module: fx.GraphModule, layers: Sequence[Layer], widths: Widths, per_channel: bool
) -> list[Place]:
    """The weights to quantize; one that several layers share has one quantizer."""
    ends = first_and_last(module, layers)
    shared: dict[str, list[Layer]] = {}
    for layer in layers:
        shared.setdefault(weight_name(layer.weight), []).append(layer)
    places = []
    for name, group in shared.items():
        bounds = widths.of_weight(name, any(layer.node in ends for layer in group))
        if bounds is not None:
            axes = {layer.axis for layer in group}
            axis = axes.pop() if per_channel and len(axes) == 1 else None
            readers = dict.fromkeys(layer.reader for layer in group)
            places.append(Place(group[0].weight, tuple(readers), axis, bounds))
    return places


def weight_name(weight: fx.Node) -> str:
    """What people call a weight: its path, or the node that computes it."""
    return str(weight.target) if weight.op == "get_attr" else weight.name


def activations_of(module: fx.GraphModule, layers: Sequence[Layer], widths: Widths) -> list[Place]:
    """The activations to quantize."""
    ends = first_and_last(module, layers)
    at_end = {rearranged_value(x) for layer in layers if layer.node in ends for x in layer.inputs}
    places = []
    for value in quantized_values(layers):
        bounds = widths.of_activation(value.name, value in at_end)
        readers = tuple(user for user in value.users if user.op != "output" and reads_numbers(user))
        if bounds is not None and readers:
            places.append(Place(value, readers, None, bounds))
    return places


def reads_numbers(user: fx.Node) -> bool:
    """Not the size alone."""
    return is_tensor(user) or isinstance(user.meta.get("val"), list | tuple)


def quantized_values(layers: Sequence[Layer]) -> list[fx.Node]:
    """The values that carry a quantizer, in the order of the graph."""
    wanted = {rearranged_value(x) for layer in layers for x in layer.inputs}
    results = (end_of(layer.node) for layer in layers if layer.is_convolution)
    wanted |= {rearranged_value(end) for end in results if not is_output(end)}
    return sorted(value for value in wanted if wanted.isdisjoint(sources(value)))


def rearranged_value(value: fx.Node) -> fx.Node:
    """What a value is a rearrangement of."""
    while (before := rearranged_from(value)) is not None and is_floating(before):
        value = before
    return value


def end_of(convolution: fx.Node) -> fx.Node:
    """The result of the operators that are one kernel with the convolution: a norm, and a clipping."""
    node = convolution
    if isinstance(rule_of(single_user(node) or node), BatchNorm):
        node = next(iter(node.users))
    while (user := single_user(node)) is not None and (clips(user) or is_dropout(user) or is_copy(user)):
        node = user
    return node


def single_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def clips(node: fx.Node) -> bool:
    return operator_name(node).removeprefix("aten.").removesuffix("_") in CLIPPING


def is_output(value: fx.Node) -> bool:
    """Whether a value is an output of the graph, rearranged at most."""
    return any(user.op == "output" or (user in picks(value) and is_output(user)) for user in value.users)


def picks(value: fx.Node) -> Iterator[fx.Node]:
    return (user for user in value.users if picked_from(user) is value)
