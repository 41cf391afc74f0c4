"""Counting what operators and stored tensors cost at given sizes, in either graph.

    MACs = multiply-accumulates of matrix products and convolutions; element-wise work is not counted
    BOPs = MACs x bits of the one factor x bits of the other       floats count 32
    bytes = entries x bits / 8, rounded up per tensor              floats count what they are stored as

Only stored floats count as parameters: lists of sizes and counters are none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from getac.rules.base import Rule
from getac.rules.contraction import Convolution, Gemm
from getac.rules.picking import picks
from getac.stored import Sources, constant_sources, tensors_of
from getac.view import GraphView, NodeView

if TYPE_CHECKING:
    from getac.quantizer import Quantizer

__all__ = [
    "FLOAT_BITS",
    "Cost",
    "LayerCost",
    "Meter",
    "Sizes",
    "SizesOf",
    "bit_operations",
    "multiplies",
]

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
class Meter:
    """Counts what nodes and stored tensors cost at given sizes.

    Args:
        sizes: The sizes of a value, None where they are unknown; a node that needs them counts 0 MACs.
        quantizers: Value -> how it is rounded.
        sources: Which stored tensors computed weights are made of.
        picked: A value whose entries are all another's -> that other.
    """

    view: GraphView
    sizes: SizesOf
    quantizers: Mapping[Any, Quantizer] = field(repr=False)
    sources: Sources = field(repr=False)
    picked: Mapping[Hashable, Hashable] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, view: GraphView, sizes: SizesOf, quantizers: Mapping[Any, Quantizer] | None = None) -> Meter:
        sources, picked = constant_sources(view.nodes, view.parameters), picked_values(view.nodes)
        return cls(view, sizes, quantizers or {}, sources, picked)

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
        """The bits of a factor, or of what its entries are picked from, or of a weight's one source."""
        record, (source, *others) = self.quantizers.get(value), self.sources.get(value) or (None,)
        while record is None and value in self.picked:
            value = self.picked[value]
            record = self.quantizers.get(value)
        if record is None and not others:
            record = self.quantizers.get(source)
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


def picked_values(nodes: Iterable[NodeView]) -> dict[Hashable, Hashable]:
    """What holds entries of another value alone -> that value: it is as coarse."""
    return {
        output: node.inputs[0]
        for node in nodes
        if picks(node.rule) and node.inputs and node.inputs[0] is not None
        for output in node.outputs
    }


def factors(node: NodeView) -> tuple[Hashable | None, Hashable | None]:
    """What a node multiplies: by the order that all multiplying rules keep, its first two inputs."""
    first, second, *_ = (*node.inputs, None, None)
    return first, second


def bit_operations(macs: int, weight_bits: int, activation_bits: int) -> int:
    return macs * weight_bits * activation_bits
