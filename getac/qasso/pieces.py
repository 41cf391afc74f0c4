"""What redundant units own, in pieces that are computed with at once.

Vectors without a quantizer (biases, norms) are one piece all together: there are many, and each is short.
Rows of equal length share a piece as long as it stays in the cache: a call costs as much as a short row.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
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
SHARED = 1 << 17  # elements of a piece that several entries share, at most


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
    """The redundant rows of one entry, of several with rows of equal length, or of many vectors.

    Args:
        rows: Of several entries only if their dimension is the first, and all or none have steps.
        is_plain: Whether the exponent of the quantizer is 1 for good.
        kept: Memory for the rows from before the step.
    """

    rows: Sequence[Rows]
    is_plain: bool = True
    kept: Scratch = field(default_factory=Scratch, repr=False)

    @cached_property
    def sizes(self) -> list[int]:
        """The number of rows of each entry."""
        return [len(one.index) for one in self.rows]

    @cached_property
    def size(self) -> int:
        """n"""
        return sum(self.sizes)

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
    def is_short(self) -> bool:
        """Whether it is made of vectors that nothing quantizes."""
        return is_short(self.rows[0])

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
        if self.is_short:
            return widened(join(self.vectors)[self.places, None])
        one = self.rows[0]
        parameter, dimension = one.entry.parameter, one.entry.dimension
        if not dimension:
            return self._read_first(memory.take("rows", (self.size, length_of(one)), parameter))
        shape = (*parameter.shape[:dimension], len(one.index), *parameter.shape[dimension + 1 :])
        return flat(one.gather(parameter, out=memory.take("rows", shape, parameter)), dimension)

    def _read_first(self, x: Tensor) -> Tensor:
        """Where the rows are indices of the first dimension: each entry's into its part of the memory."""
        for one, own in zip(self.rows, torch.split(x, self.sizes), strict=True):
            parameter = one.entry.parameter
            one.gather(parameter, out=own.view(-1, *parameter.shape[1:]))
        return widened(x)

    def add(self, change: Tensor) -> None:
        """Adds to the rows; shape (n, len)."""
        if self.is_short:
            numbers = join(self.vectors)
            part(numbers.index_add_(0, self.places, change[:, 0].to(numbers.dtype)), self.vectors)
            return
        for one, own in zip(self.rows, torch.split(change, self.sizes), strict=True):
            parameter, dimension = one.entry.parameter, one.entry.dimension
            others = [size for i, size in enumerate(parameter.shape) if i != dimension]
            shaped = own.view(len(own), *others)
            if dimension:
                shaped = shaped.movedim(0, dimension)
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
    alike: dict[Hashable, list[Rows]] = {}
    for one in rows:
        alike.setdefault(kind_of(one), []).append(one)
    shared = [
        several for kind in alike.values() for several in ([kind] if is_short(kind[0]) else packed(kind))
    ]
    return [Piece(several, is_plain(several[0].entry.quantizer)) for several in shared]


def kind_of(one: Rows) -> Hashable:
    """Rows of the same kind can share a piece."""
    quantizer, dtype = one.entry.quantizer, one.entry.parameter.dtype
    if is_short(one):
        return dtype
    if one.entry.dimension or not is_plain(quantizer) or (quantizer is not None and not one.entry.steers):
        return id(one)
    return dtype, length_of(one), quantizer is None


def is_short(one: Rows) -> bool:
    return one.entry.quantizer is None and one.entry.parameter.ndim == 1


def length_of(one: Rows) -> int:
    return one.entry.parameter[0].numel()


def packed(rows: Sequence[Rows]) -> Iterator[list[Rows]]:
    """Some of the rows at a time, in their order."""
    chosen: list[Rows] = []
    size = 0
    for one in rows:
        own = len(one.index) * length_of(one)
        if chosen and size + own > SHARED:
            yield chosen
            chosen, size = [], 0
        chosen.append(one)
        size += own
    yield chosen


def is_plain(quantizer: PlacedQuantizer | None) -> bool:
    return quantizer is None or (not quantizer.t.requires_grad and float(quantizer.t) == 1.0)


def flat(tensor: Tensor, dimension: int) -> Tensor:
    """A dimension, and all others in one."""
    first = tensor.movedim(dimension, 0) if dimension else tensor
    return widened(first.reshape(len(first), -1))


def widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in HALVES else tensor


def power(x: Tensor, t: Tensor) -> Tensor:
    """sgn(x) |x|^t"""
    return x.abs().pow_(t).copysign_(x)
