"""The operators with weights of their own: what they multiply, and which come first and last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import fx

from getac.fx_graph.call import Call, is_tensor
from getac.fx_graph.operators import call_of
from getac.rules.base import Rule
from getac.rules.contraction import Convolution, Gemm, Linear, MatMul
from getac.rules.einsum import Einsum
from getac.rules.indexing import Index
from getac.rules.parts import Gather
from getac.training.carrying import dimension_before, picked_from

__all__ = ["Layer", "find_layers", "first_and_last", "is_floating", "sources"]


@dataclass(frozen=True)
class Layer:
    """An operator that multiplies an activation by weights.

    Args:
        node: The call.
        weight: The stored tensor, or what is computed from stored tensors alone (a weight norm, say).
        reader: Who reads it: the call, or the first of the operators that rearrange it for the call.
        axis: The weight's dimension of output channels; None where it has none.
        inputs: The activations.
    """

    node: fx.Node
    weight: fx.Node
    reader: fx.Node
    axis: int | None
    inputs: tuple[fx.Node, ...]

    @property
    def is_convolution(self) -> bool:
        """Of the kind that integer kernels know; a transposed one always runs in floats."""
        call = call_of(self.node)
        return call is not None and isinstance(call.rule, Convolution) and not call.rule.transposed


def find_layers(module: fx.GraphModule, embeddings: bool = False) -> list[Layer]:
    """All layers, in the order of the graph; tables that are looked up count only if wanted."""
    values = Values.of(module)
    found = (layer_of(node, values, embeddings) for node in module.graph.nodes)
    return [layer for layer in found if layer is not None]


@dataclass(frozen=True)
class Values:
    """What the values of a graph depend on.

    Args:
        moving: Those that depend on the graph's inputs, by more than a size.
        trained: The others that depend on a parameter.
    """

    moving: set[fx.Node]
    trained: set[fx.Node]

    @classmethod
    def of(cls, module: fx.GraphModule) -> Values:
        parameters = dict(module.named_parameters(remove_duplicate=False))
        values = cls(set(), set())
        for node in module.graph.nodes:
            read = [one for one in node.all_input_nodes if is_tensor(one) or has_several_results(one)]
            if node.op == "placeholder" or not values.moving.isdisjoint(read):
                values.moving.add(node)
            elif str(node.target) in parameters or not values.trained.isdisjoint(read):
                values.trained.add(node)
        return values


def has_several_results(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), list | tuple)


def layer_of(node: fx.Node, values: Values, embeddings: bool) -> Layer | None:
    call = call_of(node)
    if call is None or not is_floating(node):
        return None
    operands = factors(call)
    if isinstance(call.rule, Gather):
        table = operands[0]
        is_layer = embeddings and table.op == "get_attr" and table in values.trained
        return Layer(node, table, node, 0, ()) if is_layer else None
    for index, operand in enumerate(operands):
        others = tuple(one for one in operands if one is not operand and one in values.moving)
        if (found := weight_behind(operand, values)) and others and may_be_weight(call.rule, index):
            dimension = output_dimension(call.rule, index, operand.meta["val"].ndim)
            weight, reader, axis = followed(operand, found, node, dimension)
            return Layer(node, weight, reader, axis, others)
    return None


def is_floating(node: fx.Node) -> bool:
    return is_tensor(node) and bool(node.meta["val"].is_floating_point())


def factors(call: Call) -> Sequence[fx.Node]:
    """The operands that a layer multiplies; none of another operator."""
    if isinstance(call.rule, Einsum):
        found = call.operands
    elif isinstance(call.rule, Convolution | Linear | MatMul | Gemm):
        found = call.operands[:2]
    elif isinstance(call.rule, Gather):
        found = call.operands[:1]
    else:
        return ()
    return [one for one in found if one is not None]


def may_be_weight(rule: Rule, index: int) -> bool:
    """Where either operand may be the weight, both are asked; a convolution's stands second."""
    return index == 1 or isinstance(rule, MatMul | Einsum)


def weight_behind(operand: fx.Node, values: Values) -> fx.Node | None:
    """The weight that an operand is picked from, if it is one.

    Matrices of several experts that tokens choose from are weights; rows of a table that they choose are not.
    """
    for node in (operand, *sources(operand)):
        call = call_of(node)
        if call and isinstance(call.rule, Index | Gather) and call.operands[0].meta["val"].ndim < 3:  # type: ignore[union-attr]
            break
        if node.op == "get_attr" and node in values.trained:
            return node
    return operand if operand in values.trained and is_floating(operand) else None


def sources(node: fx.Node) -> Iterator[fx.Node]:
    """What a value is picked from, and what that is picked from, and so on."""
    while (before := picked_from(node)) is not None:
        yield before
        node = before


def followed(
    operand: fx.Node, weight: fx.Node, reader: fx.Node, axis: int | None
) -> tuple[fx.Node, fx.Node, int | None]:
    """The weight, who reads it, and its dimension that becomes the operand's dimension `axis`."""
    for before in sources(operand):
        if operand is weight:
            break
        axis, reader, operand = dimension_before(operand, axis), operand, before
    return weight, reader, axis


def output_dimension(rule: Rule, index: int, rank: int) -> int | None:
    """The dimension of a layer's weight, operand number `index`, that is the output's channels."""
    if isinstance(rule, Convolution):
        return 1 if rule.transposed else 0  # of a transposed one with groups: the channels of every group
    if isinstance(rule, Gemm):
        return 0 if rule.transpose_b else 1
    if isinstance(rule, MatMul):
        return rank - 1 - (index == 0) if rank > 1 else None
    if isinstance(rule, Einsum):
        others = "".join(rule.operands[:index] + rule.operands[index + 1 :])
        own = [letter in rule.result and letter not in others for letter in rule.operands[index]]
        return max((d for d in range(rank) if own[d]), default=None)
    return 0


def first_and_last(module: fx.GraphModule, layers: Sequence[Layer]) -> set[fx.Node]:
    """Layers that read an input of the graph, rearranged at most, and those that no other layer follows."""
    ends = {layer.node for layer in layers if any(map(is_given, layer.inputs))}
    nodes = {layer.node for layer in layers}
    followed_by_layer: set[fx.Node] = set()
    for node in reversed(module.graph.nodes):
        if any(user in nodes or user in followed_by_layer for user in node.users):
            followed_by_layer.add(node)
    return ends | (nodes - followed_by_layer)


def is_given(value: fx.Node) -> bool:
    return value.op == "placeholder" or any(one.op == "placeholder" for one in sources(value))
