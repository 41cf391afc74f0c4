"""Walks a graph once and lets every operator's rule contribute its equations."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np

from getac.axes.axis import Axis, Freeze, atom, freeze, leaves
from getac.axes.contents import Contents
from getac.axes.context import Context
from getac.axes.inference import Inference, pin
from getac.axes.reasons import (
    EMPTY_INPUT,
    GRAPH_INPUT,
    GRAPH_OUTPUT,
    KEPT,
    NO_INPUT_SHAPE,
    NO_OUTPUT_SHAPE,
    NO_RULE,
    OUTPUT_SIZE,
    Reason,
)
from getac.axes.wishes import NO_WISHES, Wishes
from getac.view import GraphView, NodeView

__all__ = ["add_value", "infer", "visit"]


def infer(view: GraphView, wishes: Wishes = NO_WISHES) -> Inference:
    """Solves the axis equations of a graph.

    Graph inputs and outputs are frozen, and so is everything that touches an operator without a rule.

    Args:
        wishes: Parameters to keep whole, and parameters to open where they are frozen for safety.
    """
    result = Inference(parameters=frozenset(view.parameters))
    contents: dict[Hashable, Contents] = {}
    for value in view.parameters:
        add_value(view, result, value, None)
    result.weights.update(view.parameters)
    for value in view.inputs:
        add_value(view, result, value, GRAPH_INPUT)
    for node in view.nodes:
        visit(view, node, result, contents)
    for value in view.outputs:
        for axis in result.axes.get(value, ()):
            freeze(axis, Freeze(GRAPH_OUTPUT, view.name_of(value)))
        for entry in contents.get(value, ()):
            pin(entry, result, Freeze(OUTPUT_SIZE, view.name_of(value)))
    freeze_statistics(view, result, wishes)  # last: of what else is frozen, no wish opens it
    return result


def freeze_statistics(view: GraphView, result: Inference, wishes: Wishes) -> None:
    """Carries out the wishes: what statistics are taken over is frozen, except where a person opens it."""
    wanted: set[Axis] = set()
    for value in view.parameters if wishes.keep or wishes.prune else ():
        name = view.name_of(value)
        keeps, opens = wishes.keeps(name), wishes.opens(name)
        for axis in result.axes.get(value, ()):
            if keeps:
                freeze(axis, Freeze(KEPT, name))
            if opens:
                wanted.update(leaves(axis))
    for axis, why in result.statistics:
        for leaf in leaves(axis):
            if leaf in wanted:
                result.opened.add(leaf)
            else:
                freeze(leaf, why)


def add_value(view: GraphView, result: Inference, value: Hashable, frozen: Reason | None) -> None:
    sizes = view.sizes(value)
    if sizes is None:
        return
    name = view.name_of(value)
    axes = tuple([atom(size, name) for size in sizes])
    if frozen:
        for axis in axes:
            freeze(axis, Freeze(frozen, name))
    result.axes[value] = axes


def visit(view: GraphView, node: NodeView, result: Inference, contents: dict[Hashable, Contents]) -> None:
    """Lets the node's rule speak, or makes the node opaque and says why."""
    reason = why_opaque(view, node, result, contents)
    context = Context(view, node, result, contents)
    if reason is not None:
        context.make_opaque(reason)
        return
    assert node.rule is not None
    if not node.captured and all(value is None or value in result.weights for value in node.inputs):
        result.weights.update(node.outputs)
    outputs = node.rule.axes(context)
    context.freeze_arguments()
    context.freeze_unfollowed_sizes()
    for value, axes in zip(node.outputs, outputs, strict=False):
        context.set_output(value, axes)


def why_opaque(
    view: GraphView, node: NodeView, result: Inference, contents: Mapping[Hashable, Contents]
) -> Reason | None:
    if node.refusal is NO_RULE:
        return NO_RULE
    for value in node.inputs:
        if value is None:
            continue
        if value not in result.axes:
            return NO_INPUT_SHAPE.about(view.name_of(value))
        if 0 in (view.sizes(value) or ()) and not is_empty_list(view, value, contents):
            return EMPTY_INPUT.about(view.name_of(value))
    for value in node.outputs:
        if view.sizes(value) is None:
            return NO_OUTPUT_SHAPE.about(view.name_of(value))
    return node.refusal  # last: a shape that is not known is why arguments cannot be read


def is_empty_list(view: GraphView, value: Hashable, contents: Mapping[Hashable, Contents]) -> bool:
    """Whether a value lists the sizes of no dimensions: the shape of a scalar, or Shape(x)[0:0]."""
    if contents.get(value) == ():
        return True
    numbers = view.small_constant(value)
    return numbers is not None and numbers.shape == (0,) and np.issubdtype(numbers.dtype, np.integer)
