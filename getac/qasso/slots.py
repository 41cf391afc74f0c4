"""The step sizes that redundant units own, numbered through all pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from getac.kernels.lattice import EXPONENTS, GREATEST, LEAST
from getac.qasso.pieces import Piece
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
        self._pieces = [one for one in pieces if one.steers]
        counts = [slots_in(one) for one in pieces]
        self.counts = counts
        self.total_count = sum(counts)
        parts, start = [], 0
        for one, count in zip(pieces, counts, strict=True):
            part = torch.arange(count) if count > 1 else torch.zeros(one.size, dtype=torch.long)
            parts.append(part + (start if count else self.total_count))
            start += count
        self.of_row = torch.cat([*parts, torch.zeros(0, dtype=torch.long)]).to(device)
        tops = [(one.bits.top(one.bits.most), one.bits.top(one.bits.least)) for one in self._quantizers()]
        sizes = torch.tensor([count for count in counts if count], dtype=torch.long)
        each = torch.tensor(tops, dtype=torch.float64).view(-1, 2).repeat_interleave(sizes, 0)
        self._most, self._least = each.to(device).unbind(1)
        self._is_plain = all(one.is_plain for one in self._pieces)

    def _quantizers(self) -> list[PlacedQuantizer]:
        return [one.quantizer for one in self._pieces if one.quantizer is not None]

    def _gather(self, name: str) -> Tensor:
        """d or q_m of every slot."""
        parts = []
        for piece, quantizer in zip(self._pieces, self._quantizers(), strict=True):
            stored: Tensor = getattr(quantizer, name).detach()
            parts.append(stored.index_select(0, piece.rows[0].index) if stored.ndim else stored.view(1))
        return torch.cat([*parts, self._most.new_zeros(0)]).to(self._most)

    def read(self) -> Steps:
        reach = self._gather("q_m").clamp_(LEAST, GREATEST)
        if not self._is_plain:
            reach = reach.pow(self._exponents()).clamp_(max=GREATEST)
        finest, coarsest = reach / self._most, reach / self._least
        return Steps(self._gather("d").clamp_(finest, coarsest), finest, coarsest, reach)

    def _exponents(self) -> Tensor:
        pairs = zip(self._pieces, self._quantizers(), strict=True)
        parts = [q.t.detach().to(self._most).view(1).expand(slots_in(piece)) for piece, q in pairs]
        return torch.cat(parts).clamp_(*EXPONENTS)

    def write(self, d: Tensor) -> None:
        parts = torch.split(d, [count for count in self.counts if count])
        for piece, quantizer, mine in zip(self._pieces, self._quantizers(), parts, strict=True):
            mine = mine.to(quantizer.d)
            if quantizer.d.ndim:
                quantizer.d.index_copy_(0, piece.rows[0].index, mine)
            else:
                quantizer.d.copy_(mine[0])

    def total(self, values: Tensor) -> Tensor:
        """The sum over the rows of each slot."""
        return values.new_zeros(self.total_count + 1).index_add_(0, self.of_row, values)[:-1]

    def spread(self, values: Tensor, none: float = 0.0) -> Tensor:
        """Each row's own value."""
        return torch.cat([values, values.new_full((1,), none)])[self.of_row]


def slots_in(piece: Piece) -> int:
    if not piece.steers or piece.quantizer is None:
        return 0
    return piece.size if piece.quantizer.d.ndim else 1
