"""What a network costs, in all, by layer and by unit: parameters, bytes, MACs (multiply-accumulates), BOPs.

    BOPs = MACs x bits of the one factor x bits of the other       floats count 32
    bytes = entries x bits / 8, rounded up per tensor              floats count what they are stored as

One count serves all: sizes go in. A unit costs what the layers and tensors that it touches cost, minus what
they cost at sizes with one unit fewer. So an attention head counts in its projections and in both products
of the attention. Only stored floats count as parameters: lists of sizes and counters are none.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from getac.axes.axis import Axis, Mask, kept, leaves
from getac.rules.base import Rule
from getac.rules.contraction import Convolution, Gemm
from getac.stored import Sources, constant_sources, tensors_of
from getac.view import GraphView, NodeView

if TYPE_CHECKING:
    from getac.axes.analysis import Analysis, PruningClass
    from getac.quantizer import Quantizer

__all__ = ["FLOAT_BITS", "Cost", "Costs", "LayerCost", "Meter", "bit_operations", "costs_of", "meter_of"]

FLOAT_BITS = 32

Sizes = tuple[int, ...]
SizesOf = Callable[[Hashable], Sizes | None]


@dataclass(frozen=True)
class Cost:
    """Costs of a network, a layer or a unit.

    Args:
        parameters: Stored float entries.
        bytes: What they take at the bits that they are rounded to.
        macs: Multiply-accumulates, per sample unless asked otherwise; element-wise work is not counted.
        bops: Bit operations.
    """

    parameters: int
    bytes: int
    macs: int
    bops: int

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.parameters - other.parameters,
            self.bytes - other.bytes,
            self.macs - other.macs,
            self.bops - other.bops,
        )


@dataclass(frozen=True)
class LayerCost:
    """An operator that multiplies or that reads stored floats; a tied tensor counts in each of its layers.

    Args:
        channels_in: Size of the first operand's contracted dimension (channels of a convolution).
        channels_out: Size of the output's last dimension (channels of a convolution).
    """

    name: str
    operator: str
    channels_in: int
    channels_out: int
    cost: Cost


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


@dataclass(frozen=True)
class Meter:
    """Counts what nodes and stored tensors cost at given sizes.

    Args:
        sizes: The sizes of a value, None where they are unknown; a node that needs them counts 0 MACs.
        quantizers: Value -> how it is rounded.
        sources: Which stored tensors computed weights are made of.
    """

    view: GraphView
    sizes: SizesOf
    quantizers: Mapping[Any, Quantizer] = field(repr=False)
    sources: Sources = field(repr=False)

    @classmethod
    def of(cls, view: GraphView, sizes: SizesOf, quantizers: Mapping[Any, Quantizer] | None = None) -> Meter:
        return cls(view, sizes, quantizers or {}, constant_sources(view.nodes, view.parameters))

    def cost(self, nodes: Iterable[NodeView], tensors: Iterable[Hashable]) -> Cost:
        """What nodes compute and tensors store."""
        macs = [(self.macs(node), node) for node in nodes if multiplies(node)]
        floats = [tensor for tensor in tensors if self.view.is_float(tensor)]
        return Cost(
            parameters=sum(map(self.entries, floats)),
            bytes=sum(map(self.bytes, floats)),
            macs=sum(count for count, _ in macs),
            bops=sum(bit_operations(count, *map(self.bits, factors(node))) for count, node in macs),
        )

    def total(self) -> Cost:
        return self.cost(self.view.nodes, self.view.parameters)

    def layers(self) -> list[LayerCost]:
        return [self.layer(node) for node in self.view.nodes if self.is_layer(node)]

    def is_layer(self, node: NodeView) -> bool:
        """A single number belongs to a formula, as in x / sqrt(2): reading one makes no layer."""
        return multiplies(node) or any(
            self.view.is_float(tensor) and self.entries(tensor) > 1
            for tensor in tensors_of(node, self.sources)
        )

    def layer(self, node: NodeView) -> LayerCost:
        into, out = self._channels(node)
        cost = self.cost([node], tensors_of(node, self.sources))
        return LayerCost(node.name, node.operator, into, out, cost)

    def _channels(self, node: NodeView) -> tuple[int, int]:
        first = node.inputs[0]
        x, y = (self.sizes(first) if first is not None else None), self.sizes(node.outputs[0])
        match node.rule:
            case Convolution():
                into, out = 1, 1
            case Gemm(transpose_a=True):
                into, out = 0, -1
            case _:
                into, out = -1, -1
        return x[into] if x else 0, y[out] if y else 0

    def entries(self, tensor: Hashable) -> int:
        return math.prod(self.sizes(tensor) or ())

    def bytes(self, tensor: Hashable) -> int:
        record = self.quantizers.get(tensor)
        bits = self.view.storage_bits(tensor) if record is None else record.bits
        return -(-self.entries(tensor) * bits // 8)

    def bits(self, value: Hashable | None) -> int:
        """The bits of a factor; a computed one, such as a transposed weight, has those of its one source."""
        sources = self.sources.get(value, ())
        record = self.quantizers.get(value)
        if record is None and len(sources) == 1:
            record = self.quantizers.get(sources[0])
        return FLOAT_BITS if record is None else record.bits

    def macs(self, node: NodeView) -> int:
        inputs = [None if value is None else self.sizes(value) for value in node.inputs]
        output = self.sizes(node.outputs[0])
        known = [value is None or sizes is not None for value, sizes in zip(node.inputs, inputs, strict=True)]
        if node.rule is None or output is None or not all(known):
            return 0
        return node.rule.macs(inputs, output)


def multiplies(node: NodeView) -> bool:
    """Whether the node's rule counts multiply-accumulates."""
    return node.rule is not None and type(node.rule).macs is not Rule.macs


def factors(node: NodeView) -> tuple[Hashable | None, Hashable | None]:
    """What a node multiplies: by the order that all multiplying rules keep, its first two inputs."""
    first, second, *_ = (*node.inputs, None, None)
    return first, second


def bit_operations(macs: int, weight_bits: int, activation_bits: int) -> int:
    return macs * weight_bits * activation_bits


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
    opened = {member.parameter for one in analysis.classes for member in one.members}
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
        tensors = dict.fromkeys(member.parameter for member in one.members)
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
