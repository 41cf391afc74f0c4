"""The step sizes that redundant units own, numbered through all entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from getac.qasso.moves import lattice_of
from getac.qasso.units import Rows

__all__ = ["Slots", "bounds_of", "write_step"]


@dataclass(frozen=True, eq=False)
class Slots:
    """The steps that the redundant units own: of each row, or one of a whole parameter.

    Args:
        of_row: Which one rounds each row; their number for none.
        counts: How many each entry has.
    """

    of_row: Tensor
    counts: Sequence[int]

    @classmethod
    def of(cls, rows: Sequence[Rows], device: torch.device) -> Slots:
        counts = [0 if not one.entry.steers else len(one.index) if is_wide(one) else 1 for one in rows]
        total, start, parts = sum(counts), 0, []
        for one, count in zip(rows, counts, strict=True):
            if count in (0, 1):
                parts.append(torch.full((len(one.index),), start if count else total))
            else:
                parts.append(torch.arange(start, start + count))
            start += count
        flat = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)
        return cls(flat.to(device), counts)

    def total(self, values: Tensor) -> Tensor:
        """The sum over the rows of each slot."""
        found = values.new_zeros(sum(self.counts) + 1)
        return found.index_add_(0, self.of_row, values)[:-1]

    def spread(self, values: Tensor) -> Tensor:
        """Each row's own value; 0 for rows without a slot."""
        return torch.cat([values, values.new_zeros(1)])[self.of_row]


def is_wide(rows: Rows) -> bool:
    """Whether every row has a step of its own."""
    quantizer = rows.entry.quantizer
    return quantizer is not None and quantizer.d.ndim > 0


def bounds_of(rows: Sequence[Rows], device: torch.device) -> tuple[Tensor, Tensor]:
    """The finest and the coarsest step of each slot, for q_m and t as they are now."""
    finest, coarsest = [torch.zeros(0, device=device)], [torch.zeros(0, device=device)]
    for one in rows:
        quantizer = one.entry.quantizer
        if quantizer is not None and one.entry.steers:
            reach = lattice_of(one).reach().reshape(-1).to(device)
            finest.append(reach / quantizer.bits.top(quantizer.bits.most))
            coarsest.append(reach / quantizer.bits.top(quantizer.bits.least))
    return torch.cat(finest).double(), torch.cat(coarsest).double()


def write_step(rows: Rows, d: Tensor) -> None:
    quantizer = rows.entry.quantizer
    if quantizer is None or not rows.entry.steers:
        return
    if is_wide(rows):
        quantizer.d.index_copy_(0, rows.index, d.to(quantizer.d.dtype))
    else:
        quantizer.d.copy_(d[0])
