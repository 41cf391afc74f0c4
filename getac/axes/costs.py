"""What an analysed network costs: in all, by layer, and by unit of each class.

A unit costs what the layers and tensors that it touches cost, minus what they cost at sizes with one unit
fewer. So an attention head counts in its projections and in both products of the attention.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from getac.axes.axis import Axis, Mask, kept, leaves
from getac.axes.meter import Cost, LayerCost, Meter, Sizes, SizesOf, multiplies
from getac.view import NodeView

if TYPE_CHECKING:
    from getac.axes.analysis import Analysis, PruningClass

__all__ = ["Costs", "costs_of", "meter_of"]


@dataclass(frozen=True)
class Costs:
    """What an analysed network costs.

    Args:
        total: Each stored tensor once, however many layers read it.
        prunable: The parameters in tensors with an open class.
        layers: In execution order.
        classes: Class -> what removing its first unit saves.
    """

    total: Cost
    prunable: int
    layers: Sequence[LayerCost]
    classes: Mapping[str, Cost]


def meter_of(
    analysis: Analysis, masks: Mapping[Axis, Mask] | None = None, sizes: SizesOf | None = None
) -> Meter:
    """Counts what is left of an analysed network when the masked-out units are gone.

    Args:
        masks: Class atom -> the units that stay; None: all.
        sizes: Concrete sizes of values; None: those of one sample.
    """
    meter = Meter.of(analysis.view, sizes or analysis.view.sizes_per_sample, analysis.quantizers)
    return without(meter, analysis, masks or {})


def without(meter: Meter, analysis: Analysis, masks: Mapping[Axis, Mask]) -> Meter:
    """The same count at the sizes that the masks leave."""

    def remaining(value: Hashable) -> Sizes | None:
        sizes, axes = meter.sizes(value), analysis.axes.get(value)
        if sizes is None or axes is None:
            return sizes
        return tuple(left(axis, size, masks) for axis, size in zip(axes, sizes, strict=True))

    return replace(meter, sizes=remaining) if masks else meter


def left(axis: Axis, size: int, masks: Mapping[Axis, Mask]) -> int:
    """What is left of a size; it may be another than the axis', whose symbolic sizes are probes."""
    if masks.keys().isdisjoint(leaves(axis)):
        return size
    return size * int(kept(axis, masks).sum()) // axis.size


def costs_of(analysis: Analysis) -> Costs:
    """Counts an analysed network: in all, by layer, by unit of each class."""
    meter = meter_of(analysis)
    opened = {member.parameter for one in analysis.classes for member in (*one.members, *one.spared)}
    return Costs(
        total=meter.total(),
        prunable=meter.cost([], opened).parameters,
        layers=meter.layers(),
        classes=class_costs(analysis, meter),
    )


def class_costs(analysis: Analysis, meter: Meter) -> dict[str, Cost]:
    """Class name -> what removing its first unit saves. Only what touches a class is counted for it."""
    touching = nodes_by_class(analysis)
    costs = {}
    for one in analysis.classes:
        nodes = touching.get(one.atom, [])
        tensors = dict.fromkeys(member.parameter for member in (*one.members, *one.spared))
        fewer = without(meter, analysis, without_first_unit(one))
        costs[one.name] = meter.cost(nodes, tensors) - fewer.cost(nodes, tensors)
    return costs


def nodes_by_class(analysis: Analysis) -> dict[Axis, list[NodeView]]:
    """Class atom -> the multiplying nodes that its units pass through."""
    found: dict[Axis, list[NodeView]] = defaultdict(list)
    for node in filter(multiplies, analysis.view.nodes):
        axes = (axis for value in [*node.inputs, node.outputs[0]] for axis in analysis.axes.get(value, ()))
        for leaf in {leaf for axis in axes for leaf in leaves(axis) if leaf.frozen is None}:
            found[leaf].append(node)
    return found


def without_first_unit(one: PruningClass) -> dict[Axis, Mask]:
    mask = np.ones(one.size, dtype=np.bool_)
    mask[0] = False
    return {one.atom: mask}
