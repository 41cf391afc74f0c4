"""What redundant units own, in pieces that are computed with at once.

Vectors without a quantizer (biases, norms) are one piece all together: there are many, and each is short.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from getac.kernels.lattice import EXPONENTS, lattice
from getac.qasso.units import Rows
from getac.training.quantizers import PlacedQuantizer

__all__ = ["Held", "Piece", "pieces_of"]

HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Held:
    """Redundant rows before the step; shape (n, len).

    Args:
        x: The numbers.
        v: sgn(x) clip / d; x itself where nothing quantizes it.
        residual: sgn(x) R; None where nothing quantizes it.
    """

    x: Tensor
    v: Tensor
    residual: Tensor | None


@dataclass(frozen=True, eq=False)
class Piece:
    """The redundant rows of one entry, or of many vectors that nothing quantizes.

    Args:
        is_plain: Whether the exponent of the quantizer is 1 for good.
        memory: Taken once: fresh memory for every step would cost more time than the arithmetic.
    """

    rows: Sequence[Rows]
    is_plain: bool = True
    memory: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> int:
        """n"""
        return sum(len(one.index) for one in self.rows)

    @property
    def quantizer(self) -> PlacedQuantizer | None:
        return self.rows[0].entry.quantizer

    @property
    def steers(self) -> bool:
        return self.rows[0].entry.steers

    def scratch(self, name: str, like: Tensor) -> Tensor:
        """Memory that keeps its numbers until it is asked for under the same name again."""
        found = self.memory.get(name)
        if found is None or found.shape != like.shape or found.dtype != like.dtype:
            found = self.memory[name] = torch.empty_like(like)
        return found

    def read(self, name: str) -> Tensor:
        """The rows as they are now; shape (n, len), float32 at least; see `scratch`."""
        first = self.rows[0]
        if len(self.rows) > 1:
            found = torch.cat([one.gather(one.entry.parameter) for one in self.rows])
        else:
            found = first.gather(first.entry.parameter, out=self.memory.get(name))
            self.memory[name] = found
        return flat(found, first.entry.dimension)

    def add(self, change: Tensor) -> None:
        """Adds to the rows; shape (n, len)."""
        if len(self.rows) > 1:
            parts: Sequence[Tensor] = torch.split(change[:, 0], [len(one.index) for one in self.rows])
        else:
            entry = self.rows[0].entry
            others = [size for i, size in enumerate(entry.parameter.shape) if i != entry.dimension]
            parts = [change.view(len(change), *others).movedim(0, entry.dimension)]
        for one, part in zip(self.rows, parts, strict=True):
            parameter = one.entry.parameter
            parameter.index_add_(one.entry.dimension, one.index, part.to(parameter.dtype))

    def fill(self) -> None:
        for one in self.rows:
            one.fill(one.entry.parameter)

    def hold(self, d: Tensor, top: Tensor) -> Held:
        """Measures the rows.

        Args:
            d: The step of each row, shape (n,).
            top: q_m^t / d of each row.
        """
        x, quantizer = self.read("x"), self.quantizer
        if quantizer is None:
            return Held(x, x, None)
        if not self.steers:
            return self._hold_by_others(x, quantizer)
        reach = x if self.is_plain else power(x, quantizer.t.detach().clamp(*EXPONENTS))
        wide = top.to(x.dtype)[:, None]
        v = torch.div(reach, d.to(x.dtype)[:, None], out=self.scratch("v", x))
        # Not clamp_, which is slow where each row has bounds of its own.
        torch.maximum(torch.minimum(v, wide, out=v), -wide if quantizer.bits.signed else 0 * wide, out=v)
        return Held(x, v, torch.round(v, out=self.scratch("residual", v)).sub_(v))

    def _hold_by_others(self, x: Tensor, quantizer: PlacedQuantizer) -> Held:
        """Where the steps belong to other units (of the rows, while these are columns): d is in v and R."""
        (one,) = self.rows
        on = lattice(quantizer.d.detach(), quantizer.q_m.detach(), quantizer.t.detach(), quantizer.bits)
        like = one.gather(one.entry.parameter)
        shape = [-1 if i == quantizer.axis else 1 for i in range(like.ndim)]
        on = on.each(lambda step: flat(step.view(shape).expand_as(like), one.entry.dimension))
        top = torch.as_tensor(on.top, dtype=x.dtype, device=x.device)
        v = (x if on.t is None else power(x, on.t)) / on.d
        v = v.clamp_(-top if quantizer.bits.signed else 0 * top, top)
        return Held(x, v * on.d, (v.round() - v) * on.d)


def pieces_of(rows: Sequence[Rows]) -> list[Piece]:
    """The pieces; they are in another order than the rows."""
    short = [one for one in rows if one.entry.quantizer is None and one.entry.parameter.ndim == 1]
    pieces = [Piece([one], is_plain(one.entry.quantizer)) for one in rows if one not in short]
    by_type: dict[torch.dtype, list[Rows]] = {}
    for one in short:
        by_type.setdefault(one.entry.parameter.dtype, []).append(one)
    return [*pieces, *(Piece(several) for several in by_type.values())]


def is_plain(quantizer: PlacedQuantizer | None) -> bool:
    return quantizer is None or (not quantizer.t.requires_grad and float(quantizer.t) == 1.0)


def flat(tensor: Tensor, dimension: int) -> Tensor:
    """A dimension, and all others in one."""
    return widened(tensor.movedim(dimension, 0).reshape(tensor.shape[dimension], -1))


def widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in HALVES else tensor


def power(x: Tensor, t: Tensor) -> Tensor:
    """sgn(x) |x|^t"""
    return x.abs().pow_(t).copysign_(x)
