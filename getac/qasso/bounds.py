"""Between how many bits a quantizer may be: wide while training warms up, narrower from period to period."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx

from getac.kernels.fake_quantize import Bits
from getac.qasso.projection import reach_of, set_bits
from getac.qasso.schedule import Schedule
from getac.training.quantizers import find_quantizers
from getac.training.state import state_of

__all__ = ["Bounds", "FallingBounds", "read_bounds", "widen", "write_bounds"]

Bounds = tuple[float, float]
"""The least and the greatest number of bits: b_l and b_u of the paper."""


@torch.no_grad()
def widen(module: fx.GraphModule, most: float) -> None:
    """Lets quantizers start at more bits than they end with: training begins close to floats."""
    narrow = [one for one in find_quantizers(module) if one.bits.most < most]
    for one in set_bits(module, narrow, {one.name: one.bits._replace(most=most) for one in narrow}):
        one.d.copy_(reach_of(one) / one.bits.top(most))


@dataclass(frozen=True)
class FallingBounds:
    """The bounds of all quantizers over the whole training.

    Args:
        starts: Name of a quantizer -> its greatest number of bits in warm-up.
        targets: Name -> the bounds that it has from the joint stage on.
        reduction: By how many bits the upper bound falls after each projection period: b_r of the paper;
            None: evenly.
    """

    starts: Mapping[str, float]
    targets: Mapping[str, Bounds]
    reduction: float | None

    @classmethod
    def of(cls, module: fx.GraphModule, reduction: float | None) -> FallingBounds:
        """From the bounds in the graph to those that the module was prepared with."""
        starts = {name: most for name, (_, most) in read_bounds(module).items()}
        targets = {one.name: (one.bits.least, one.bits.most) for one in state_of(module).insertions}
        return cls(starts, targets, reduction)

    def check(self, schedule: Schedule) -> None:
        """Raises OptionError if some bound would not reach its target."""
        for name, start in self.starts.items():
            schedule.check_reduction(start, self.targets[name][1], self.reduction)

    def set(self, module: fx.GraphModule, schedule: Schedule, step: int) -> bool:
        """Writes the bounds of a step into the graph; returns whether that changed it."""
        bounds = {}
        for name, (least, target) in self.targets.items():
            bounds[name] = least, schedule.most_bits(step, self.starts[name], target, self.reduction)
        return write_bounds(module, bounds)


def read_bounds(module: fx.GraphModule) -> dict[str, Bounds]:
    """Name of a quantizer -> the bounds that stand in the graph."""
    return {one.name: (one.bits.least, one.bits.most) for one in find_quantizers(module)}


def write_bounds(module: fx.GraphModule, bounds: Mapping[str, Bounds]) -> bool:
    """Returns whether that changed the graph."""
    quantizers = find_quantizers(module)
    bits = {one.name: Bits(one.bits.signed, *bounds[one.name]) for one in quantizers}
    if all(bits[one.name] == one.bits for one in quantizers):
        return False
    set_bits(module, quantizers, bits)
    return True
