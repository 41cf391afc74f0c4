"""The step sizes that redundant units own, numbered through all pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from getac.kernels.lattice import EXPONENTS, GREATEST, LEAST
from getac.qasso.joined import join, part
from getac.qasso.pieces import Piece
from getac.qasso.units import Rows
from getac.training.quantizers import PlacedQuantizer

__all__ = ["Slots", "Steps"]


@dataclass(frozen=True, eq=False)
class Steps:
    """The steps as they are now, one per slot, in float64.

    Args:
        d: The one that the quantizer uses.
        finest: That of the greatest number of bits.
        coarsest: That of the least.
        reach: q_m^t
    """

    d: Tensor
    finest: Tensor
    coarsest: Tensor
    reach: Tensor


class Slots:
    """A slot is the step of one row, or that of a whole parameter."""

    def __init__(self, pieces: Sequence[Piece], device: torch.device) -> None:
        rows = [one for piece in pieces for one in piece.rows]
        steered = [(one, one.entry.quantizer) for one in rows if one.entry.steers]
        placed = [(one, quantizer) for one, quantizer in steered if quantizer is not None]
        self._quantizers = [quantizer for _, quantizer in placed]
        counts = [slots_in(one) for one in rows]
        self.total_count = sum(counts)
        self.of_row = rows_of(rows, counts).to(device)
        sizes = torch.tensor([count for count in counts if count], dtype=torch.long)
        self._owner = torch.repeat_interleave(sizes).to(device)
        self._place = places_of(placed).to(device)
        bounds = [(one.bits.top(one.bits.most), one.bits.top(one.bits.least)) for one in self._quantizers]
        tops = torch.tensor(bounds, dtype=torch.float64).view(-1, 2).to(device)[self._owner]
        self._most, self._least = tops.unbind(1)
        signs = [float(one.bits.signed) for one in self._quantizers]
        self._signed = torch.tensor(signs, dtype=torch.float64).to(device)[self._owner]
        self._is_plain = all(one.is_plain for one in pieces if one.steers)

    def _gather(self, tensors: Sequence[Tensor]) -> Tensor:
        """d or q_m of every slot."""
        return join(tensors)[self._place].double() if tensors else self._most.new_zeros(0)

    def read(self) -> Steps:
        reach = self._gather([one.q_m for one in self._quantizers]).clamp_(LEAST, GREATEST)
        if not self._is_plain:
            exponents = join([one.t for one in self._quantizers])[self._owner].double()
            reach = reach.pow(exponents.clamp_(*EXPONENTS)).clamp_(max=GREATEST)
        finest, coarsest = reach / self._most, reach / self._least
        d = self._gather([one.d for one in self._quantizers]).clamp_(finest, coarsest)
        return Steps(d, finest, coarsest, reach)

    def bounds(self, steps: Steps) -> Tensor:
        """What a row is divided by, and the bounds of the quotient: d, -top, top; shape (rows, 3)."""
        top = steps.reach / steps.d
        bounds = torch.stack([steps.d, -top * self._signed, top], 1)
        return torch.cat([bounds, bounds.new_tensor([[1.0, -torch.inf, torch.inf]])])[self.of_row]

    def write(self, d: Tensor) -> None:
        tensors: list[Tensor] = [one.d for one in self._quantizers]
        if tensors:
            numbers = join(tensors)
            part(numbers.index_copy_(0, self._place, d.to(numbers.dtype)), tensors)

    def total(self, values: Tensor) -> Tensor:
        """The sum over the rows of each slot."""
        return values.new_zeros(self.total_count + 1).index_add_(0, self.of_row, values)[:-1]

    def spread(self, values: Tensor, none: float = 0.0) -> Tensor:
        """Each row's own value."""
        return torch.cat([values, values.new_full((1,), none)])[self.of_row]


def slots_in(one: Rows) -> int:
    if not one.entry.steers or one.entry.quantizer is None:
        return 0
    return len(one.index) if one.entry.quantizer.d.ndim else 1


def rows_of(rows: Sequence[Rows], counts: Sequence[int]) -> Tensor:
    """The slot of each row; the one after the last where there is none."""
    parts, start = [], 0
    for one, count in zip(rows, counts, strict=True):
        own = torch.arange(count) if count > 1 else torch.zeros(len(one.index), dtype=torch.long)
        parts.append(own + (start if count else sum(counts)))
        start += count
    return torch.cat([*parts, torch.zeros(0, dtype=torch.long)])


def places_of(placed: Sequence[tuple[Rows, PlacedQuantizer]]) -> Tensor:
    """Where the step of each slot stands among all steps of the quantizers."""
    parts, start = [torch.zeros(0, dtype=torch.long)], 0
    for one, quantizer in placed:
        own = one.index.cpu() if quantizer.d.ndim else torch.zeros(1, dtype=torch.long)
        parts.append(own + start)
        start += quantizer.d.numel()
    return torch.cat(parts)
