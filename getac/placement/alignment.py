"""Channel counts that onnxruntime's kernels like.

The cost table says which: as it ships, int8 convolutions want multiples of 4 (61 channels are slower than
64), float and depthwise ones multiples of 16; linear layers take any width. An unaligned pruned model can be
slower than the dense one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterator, Mapping

from getac.axes.analysis import Analysis, PruningClass
from getac.axes.axis import Axis, leaves, units
from getac.kernel_costs import CostTable, Kind, Strategy, default_table
from getac.rules.contraction import Convolution, Gemm, Linear, MatMul

__all__ = ["unit_multiples"]


def unit_multiples(
    analysis: Analysis,
    align: int | None,
    integer: bool | Collection[Hashable],
    costs: CostTable | None = None,
) -> Mapping[Axis, int]:
    """Class atom -> the multiple that the number of its kept units should be.

    Args:
        align: Channel multiple for every layer; None: what each layer's kernel likes.
        integer: Whether layers will run on integers; or the weights of those that will.
        costs: What kernels take; None: the table that ships with getac.
    """
    result = {one.atom: 1 for one in analysis.classes}
    for axis, channels in channel_axes(analysis, integer, costs or default_table()):
        wanted = align if align is not None else channels
        for leaf in dict.fromkeys(leaves(axis)):
            if leaf in result:
                result[leaf] = math.lcm(result[leaf], unit_multiple(axis, leaf, wanted))
    return result


def channel_axes(
    analysis: Analysis, integer: bool | Collection[Hashable], costs: CostTable
) -> Iterator[tuple[Axis, int]]:
    """The channel axes of all layers with weights, and the multiple that each kernel likes."""
    for node in analysis.view.nodes:
        rule, weight = node.rule, node.inputs[1] if len(node.inputs) > 1 else None
        axes = analysis.axes.get(weight)
        if axes is None or weight not in analysis.parameters:
            continue
        on_integers = integer if isinstance(integer, bool) else weight in integer
        if isinstance(rule, Convolution):
            for value in (node.inputs[0], node.outputs[0]):
                if value in analysis.axes:  # not where the shape is unknown
                    axis = analysis.axes[value][1]
                    yield axis, convolution_multiple(rule, axis.size, on_integers, costs)
        elif isinstance(rule, Gemm | Linear | MatMul):
            for axis in axes:
                yield axis, costs.multiple(Kind.LINEAR, strategy_of(on_integers))


def convolution_multiple(rule: Convolution, channels: int, integer: bool, costs: CostTable) -> int:
    kind = Kind.DEPTHWISE if rule.groups == channels else Kind.CONVOLUTION
    return costs.multiple(kind, strategy_of(integer and not rule.transposed))


def strategy_of(integer: bool) -> Strategy:
    return Strategy.INTEGER if integer else Strategy.FLOAT


def unit_multiple(axis: Axis, leaf: Axis, channels: int) -> int:
    """How many units make a multiple of `channels` channels, where each unit owns several of them."""
    owners = units(axis, leaf)
    width = sum(int((owner >= 0).sum()) for owner in owners) // leaf.size
    return channels // math.gcd(channels, width)


def allowed_counts(one: PruningClass, multiple: int) -> list[int]:
    """The unit counts that a class may keep: its own, and smaller multiples; never none."""
    return sorted({one.size, *range(multiple, one.size, multiple)})
