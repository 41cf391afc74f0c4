"""Keeps the numbers of bits within bounds by changing d alone, and fixes them in the end.

    b = log2(q_m^t / d + 1) + 1     (one less without a sign; arXiv 2502.16638, equation 3)

so that b in [b_l, b_u] says  q_m^t / top(b_u) <= d <= q_m^t / top(b_l), top(b) = 2^(b-1) - 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from getac.errors import OptionError
from getac.fx_graph.arguments import set_argument
from getac.kernels.fake_quantize import Bits
from getac.kernels.lattice import EXPONENTS, GREATEST, LEAST
from getac.qasso.joined import join, part
from getac.training.quantizers import PlacedQuantizer, place

__all__ = ["Projection", "bits_of", "fix_bits", "reach_of", "set_bits"]


def reach_of(quantizer: PlacedQuantizer) -> Tensor:
    """q_m^t, as the fake quantizer computes it: a range or an exponent outside of its domain is cut."""
    q_m = quantizer.q_m.detach().clamp(LEAST, GREATEST)
    return q_m.pow(quantizer.t.detach().clamp(*EXPONENTS)).clamp(max=GREATEST)


@dataclass(frozen=True, eq=False)
class Projection:
    """Brings every d of some quantizers into its range, in a handful of calls for all of them.

    Args:
        parts: The quantizers of each device.
    """

    parts: Sequence[Ranges]

    @classmethod
    def of(cls, quantizers: Sequence[PlacedQuantizer]) -> Projection:
        """Reads once what the bounds are, and which exponents are 1 and do not learn."""
        by_device: dict[torch.device, list[PlacedQuantizer]] = {}
        for one in quantizers:
            by_device.setdefault(one.d.device, []).append(one)
        return cls([Ranges(several) for several in by_device.values()])

    @torch.no_grad()
    def apply(self) -> None:
        """Changes d where its bits are outside of their bounds, and nothing else."""
        for one in self.parts:
            one.project()


class Ranges:
    """Where the steps of quantizers may be, as one tensor; the quantizers' `bits` are the bounds."""

    def __init__(self, quantizers: Sequence[PlacedQuantizer]) -> None:
        self._d: list[Tensor] = [one.d for one in quantizers]
        self._q_m: list[Tensor] = [one.q_m for one in quantizers]
        is_plain = all(not one.t.requires_grad and float(one.t) == 1.0 for one in quantizers)
        self._t = None if is_plain else [one.t for one in quantizers]
        sizes = torch.tensor([one.d.numel() for one in quantizers])
        self._owner = torch.repeat_interleave(sizes).to(self._d[0].device)
        bounds = [[one.bits.top(bits) for bits in (one.bits.most, one.bits.least)] for one in quantizers]
        tops = torch.tensor(bounds, dtype=torch.float64).to(self._d[0])[self._owner]
        self._most, self._least = tops.unbind(1)

    def project(self) -> None:
        reach = self._reach()
        d = torch.maximum(join(self._d), reach / self._most)
        part(torch.minimum(d, reach / self._least), self._d)

    def _reach(self) -> Tensor:
        """q_m^t of each, cut as `reach_of` does it."""
        reach = join(self._q_m).clamp_(LEAST, GREATEST)
        if self._t is None:
            return reach
        return reach.pow(join(self._t).clamp_(*EXPONENTS)[self._owner]).clamp_(max=GREATEST)


@torch.no_grad()
def bits_of(quantizer: PlacedQuantizer) -> Tensor:
    """b as d, q_m and t say it, whatever the bounds are: shape () or (size of the axis,)."""
    return (reach_of(quantizer) / quantizer.d).add(1).log2() + quantizer.bits.signed


@torch.no_grad()
def fix_bits(module: fx.GraphModule, quantizers: Sequence[PlacedQuantizer]) -> list[PlacedQuantizer]:
    """Rounds the bits of every quantizer to one whole number and fixes it; d follows q_m and t from then on.

    A quantizer per channel takes the mean of its channels.

    Returns:
        The quantizers as they are placed now, in the same order.
    """
    means = [bits_of(one).mean() for one in quantizers]
    numbers = torch.stack(means).tolist() if means else []
    chosen = {}
    for quantizer, number in zip(quantizers, numbers, strict=True):
        signed, least, most = quantizer.bits
        bits = float(min(max(round(number), round(least)), round(most)))
        chosen[quantizer.name] = Bits(signed, bits, bits)
    placed = set_bits(module, quantizers, chosen)
    for quantizer in placed:
        quantizer.d.copy_(reach_of(quantizer) / quantizer.bits.top(quantizer.bits.most))
    return placed


def set_bits(
    module: fx.GraphModule, quantizers: Sequence[PlacedQuantizer], bits: Mapping[str, Bits]
) -> list[PlacedQuantizer]:
    """Writes other bounds into the graph, and recompiles it once.

    Args:
        bits: Name of a quantizer -> its bounds; the others keep theirs.

    Returns:
        The quantizers as they are placed now, in the same order.

    Raises:
        OptionError: Bounds that are reversed, or below what a lattice needs.
    """
    for name, (signed, least, most) in bits.items():
        if not (1 if signed else 0) < least <= most:
            raise OptionError(
                "the least number of bits is above the greatest, or too small",
                where=name,
                required=f"{'more than 1' if signed else 'more than 0'}, the least first",
                found=f"{least:g} to {most:g}",
            )
    for quantizer in quantizers:
        if quantizer.name in bits:
            _, least, most = bits[quantizer.name]
            set_argument(quantizer.node, "least_bits", float(least))
            set_argument(quantizer.node, "most_bits", float(most))
    module.recompile()
    return [place(module, quantizer.node) for quantizer in quantizers]
