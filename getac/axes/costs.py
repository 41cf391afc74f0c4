"""What a unit costs: the parameters and multiply-accumulates that go with it, from the same analysis.

Counts come from sizes alone: a layer's MACs before, minus its MACs with one unit of a class fewer. So an
attention head counts in its projections and in both products of the attention.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from getac.axes.analysis import Analysis, PruningClass
from getac.axes.axis import Axis, Mask, kept, leaves
from getac.rules.base import Rule
from getac.view import NodeView

__all__ = ["ClassCost", "class_costs", "layer_macs", "parameter_count"]

Sizes = tuple[int, ...]
SizesOf = Callable[[Hashable], Sizes | None]


@dataclass(frozen=True)
class ClassCost:
    """What removing the first unit of a class saves.

    Args:
        parameters: Stored float entries.
        macs: Multiply-accumulates, per sample unless asked otherwise.
    """

    parameters: int
    macs: int


def parameter_count(analysis: Analysis, masks: Mapping[Axis, Mask] | None = None) -> int:
    """Stored float entries that are left when the masked-out units are gone."""
    stored = [value for value in analysis.parameters if analysis.view.is_float(value)]
    return sum(entries_left(analysis, value, masks or {}) for value in stored)


def entries_left(analysis: Analysis, value: Hashable, masks: Mapping[Axis, Mask]) -> int:
    return math.prod(int(kept(axis, masks).sum()) for axis in analysis.axes.get(value, ()))


def layer_macs(
    analysis: Analysis, masks: Mapping[Axis, Mask] | None = None, sizes: SizesOf | None = None
) -> dict[str, int]:
    """Layer -> multiply-accumulates that are left when the masked-out units are gone.

    Args:
        sizes: Concrete sizes of values; None: those of one sample.
    """
    sizes = sizes or analysis.view.sizes_per_sample
    return {node.name: node_macs(analysis, node, masks or {}, sizes) for node in multiplying_nodes(analysis)}


def multiplying_nodes(analysis: Analysis) -> list[NodeView]:
    """The nodes whose rule counts multiply-accumulates, where shapes are known."""
    return [
        node
        for node in analysis.view.nodes
        if node.rule is not None
        and type(node.rule).macs is not Rule.macs
        and all(value in analysis.axes for value in [*node.inputs[:2], node.outputs[0]])
    ]


def node_macs(analysis: Analysis, node: NodeView, masks: Mapping[Axis, Mask], sizes: SizesOf) -> int:
    inputs = [None if v is None else remaining(analysis, v, masks, sizes) for v in node.inputs]
    output = remaining(analysis, node.outputs[0], masks, sizes)
    assert node.rule is not None and output is not None
    return node.rule.macs(inputs, output)


def remaining(
    analysis: Analysis, value: Hashable, masks: Mapping[Axis, Mask], sizes: SizesOf
) -> Sizes | None:
    """The sizes of a value when the masked-out units are gone."""
    axes, concrete = analysis.axes.get(value), sizes(value)
    if axes is None or concrete is None:
        return None
    return tuple(
        size * int(kept(axis, masks).sum()) // axis.size if axis.size else size
        for axis, size in zip(axes, concrete, strict=True)
    )


def class_costs(analysis: Analysis, sizes: SizesOf | None = None) -> dict[str, ClassCost]:
    """Class name -> what one of its units costs. Only what touches a class is counted again for it."""
    sizes = sizes or analysis.view.sizes_per_sample
    touching = nodes_by_class(analysis)
    costs = {}
    for one in analysis.classes:
        fewer = without_first_unit(one)
        stored = {m.parameter for m in one.members if analysis.view.is_float(m.parameter)}
        parameters = sum(
            entries_left(analysis, value, {}) - entries_left(analysis, value, fewer) for value in stored
        )
        macs = sum(
            node_macs(analysis, node, {}, sizes) - node_macs(analysis, node, fewer, sizes)
            for node in touching.get(one.atom, [])
        )
        costs[one.name] = ClassCost(parameters, macs)
    return costs


def nodes_by_class(analysis: Analysis) -> dict[Axis, list[NodeView]]:
    """Class atom -> the multiplying nodes that its units pass through."""
    found: dict[Axis, list[NodeView]] = defaultdict(list)
    for node in multiplying_nodes(analysis):
        values = [*node.inputs, node.outputs[0]]
        axes = [axis for value in values for axis in analysis.axes.get(value, ())]
        for leaf in {leaf for axis in axes for leaf in leaves(axis) if leaf.frozen is None}:
            found[leaf].append(node)
    return found


def without_first_unit(one: PruningClass) -> dict[Axis, Mask]:
    mask = np.ones(one.size, dtype=np.bool_)
    mask[0] = False
    return {one.atom: mask}
