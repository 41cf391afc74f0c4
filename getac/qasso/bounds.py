"""The bounds of quantizers' numbers of bits, which stand in the graph and fall while it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx

from getac.fx_graph.arguments import set_argument
from getac.training.quantizers import PlacedQuantizer, find_quantizers
from getac.training.state import state_of

__all__ = ["Bounds", "channel_bits", "rounded_bits", "set_bounds", "target_bounds", "widen"]

Bounds = tuple[float, float]
"""b_l and b_u of the paper."""


def target_bounds(module: fx.GraphModule) -> dict[str, Bounds]:
    """Name of a quantizer -> the bounds that it was prepared with."""
    return {one.name: (one.bits.least, one.bits.most) for one in state_of(module).insertions}


def set_bounds(module: fx.GraphModule, bounds: Mapping[str, Bounds]) -> None:
    """Writes bounds into the graph; those of quantizers that are not named stay."""
    changed = False
    for one in find_quantizers(module):
        least, most = bounds.get(one.name, one.bits[1:])
        if (least, most) != one.bits[1:]:
            set_argument(one.node, "least_bits", float(least))
            set_argument(one.node, "most_bits", float(most))
            changed = True
    if changed:
        module.recompile()


@torch.no_grad()
def widen(module: fx.GraphModule, most: float) -> None:
    """Lets quantizers start at more bits than they end with: training begins close to floats."""
    wider = {one.name: (one.bits.least, most) for one in find_quantizers(module) if most > one.bits.most}
    set_bounds(module, wider)
    for one in find_quantizers(module):
        if one.name in wider:
            one.d.copy_(one.lattice().reach() / one.bits.top(most))


@torch.no_grad()
def channel_bits(quantizer: PlacedQuantizer) -> Tensor:
    """b = log2(q_m^t / d + 1) + 1 (one less without a sign), one per step; on the device."""
    top = torch.as_tensor(quantizer.lattice().top, device=quantizer.d.device)
    return top.double().add(1).log2().add(float(quantizer.bits.signed)).expand(quantizer.d.shape)


def mean_bits(quantizers: Sequence[PlacedQuantizer]) -> list[float]:
    """The mean number of bits of each quantizer's steps; waits for the device once."""
    if not quantizers:
        return []
    found: list[float] = torch.stack([channel_bits(one).mean() for one in quantizers]).tolist()
    return found


def rounded_bits(quantizers: Sequence[PlacedQuantizer]) -> dict[str, int]:
    """Name -> the whole number of bits next to the mean of a quantizer's steps, within its bounds."""
    pairs = zip(quantizers, mean_bits(quantizers), strict=True)
    return {one.name: round(min(max(bits, one.bits.least), one.bits.most)) for one, bits in pairs}
