"""What redundant units own, in pieces that are computed with at once.

Vectors without a quantizer (biases, norms) are one piece all together: there are many, and each is short.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from getac.kernels.lattice import EXPONENTS, lattice
from getac.qasso.joined import join, part
from getac.qasso.scratch import Scratch
from getac.qasso.units import Rows
from getac.training.quantizers import PlacedQuantizer

__all__ = ["Held", "Piece", "pieces_of"]

HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Held:
    """Redundant rows before the step; shape (n, len).

    Args:
        x: The numbers.
        v: sgn(x) clip / d; where rows have steps, sgn(x) |x|^t until `Piece.quotient` has divided and bounded
            it. x itself where nothing quantizes it.
        residual: sgn(x) R where it is known already: where steps belong to other units, d is in it and in v.
    """

    x: Tensor
    v: Tensor
    residual: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Piece:
    """The redundant rows of one entry, or of many vectors that nothing quantizes.

    Args:
        is_plain: Whether the exponent of the quantizer is 1 for good.
        kept: Memory for the rows from before the step.
    """

    rows: Sequence[Rows]
    is_plain: bool = True
    kept: Scratch = field(default_factory=Scratch, repr=False)

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

    @cached_property
    def has_slots(self) -> bool:
        """Whether each row has a step, which may be that of all rows."""
        return self.quantizer is not None and self.steers

    @cached_property
    def vectors(self) -> list[Tensor]:
        """All parameters, where they are vectors."""
        return [one.entry.parameter for one in self.rows]

    @cached_property
    def places(self) -> Tensor:
        """Where the rows stand among all numbers of the vectors."""
        parts, start = [], 0
        for one in self.rows:
            parts.append(one.index + start)
            start += one.entry.parameter.numel()
        return torch.cat(parts)

    def read(self, memory: Scratch) -> Tensor:
        """The rows as they are now; shape (n, len), float32 at least."""
        if len(self.rows) > 1:
            return widened(join(self.vectors)[self.places, None])
        (one,) = self.rows
        parameter, dimension = one.entry.parameter, one.entry.dimension
        shape = (*parameter.shape[:dimension], len(one.index), *parameter.shape[dimension + 1 :])
        rows = one.gather(parameter, out=memory.take("rows", shape, parameter))
        return flat(rows, dimension)

    def add(self, change: Tensor) -> None:
        """Adds to the rows; shape (n, len)."""
        if len(self.rows) > 1:
            numbers = join(self.vectors)
            part(numbers.index_add_(0, self.places, change[:, 0].to(numbers.dtype)), self.vectors)
            return
        (one,) = self.rows
        parameter, dimension = one.entry.parameter, one.entry.dimension
        others = [size for i, size in enumerate(parameter.shape) if i != dimension]
        shaped = change.view(len(change), *others).movedim(0, dimension)
        parameter.index_add_(dimension, one.index, shaped.to(parameter.dtype))

    def fill(self) -> None:
        for one in self.rows:
            one.fill(one.entry.parameter)

    def hold(self) -> Held:
        """What the base optimizer's step would destroy."""
        x, quantizer = self.read(self.kept), self.quantizer
        if quantizer is None or (self.steers and self.is_plain):
            return Held(x, x)
        if self.steers:
            return Held(x, power(x, quantizer.t.detach().clamp(*EXPONENTS)))
        return self._hold_by_others(x, quantizer)

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

    def quotient(self, held: Held, d: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """v, in the memory of what is held.

        Args:
            d: The step of each row, and the bounds of v; shape (n, 1).
        """
        if not self.has_slots:
            return held.v
        v = held.v.div_(d)
        # Not clamp_, which is slow where each row has bounds of its own.
        return torch.maximum(torch.minimum(v, high, out=v), low, out=v)

    def rounded(self, held: Held, memory: Scratch) -> Tensor:
        """sgn(x) (v + R); v itself where nothing quantizes the rows."""
        if self.has_slots:
            return torch.round(held.v, out=memory.take("residual", held.v.shape, held.v))
        return held.v if held.residual is None else held.v + held.residual

    def residual(self, held: Held, memory: Scratch) -> Tensor | None:
        """sgn(x) R, once v is known; None where nothing quantizes the rows."""
        if not self.has_slots:
            return held.residual
        return torch.round(held.v, out=memory.take("residual", held.v.shape, held.v)).sub_(held.v)


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
