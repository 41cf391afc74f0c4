"""What the base optimizer's step does to redundant rows, measured against what forgetting would do.

clip = min(|x|, q_m)^t,   v = sgn(x) clip / d,   sgn(x) R = round(v) - v     before the step
u    = (x_before - x_after) / alpha
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from getac.kernels.fake_quantize import bound_, quotient
from getac.kernels.lattice import Lattice, lattice
from getac.qasso.units import Rows

__all__ = ["Held", "Moves", "Rates", "hold", "lattice_of", "moves_of"]

Rates = float | Tensor | Mapping[nn.Parameter, float | Tensor]
"""The learning rate alpha: one for all, or one for each parameter."""


@dataclass(frozen=True, eq=False)
class Held:
    """The redundant rows of one entry before the step; `len` numbers in each of n rows.

    Args:
        x: Shape (n, len).
        v: sgn(x) clip / d; x itself where nothing quantizes it.
        residual: sgn(x) R; None where nothing quantizes it.
        d: The step that both are measured with, to broadcast against them.
    """

    x: Tensor
    v: Tensor
    residual: Tensor | None
    d: Tensor | float


@dataclass(frozen=True, eq=False)
class Moves:
    """What the base step did to all redundant rows, each of shape (rows of all entries,), in float64.

    Args:
        squares: alpha ||u||^2
        with_clip: u . sgn(x) clip
        clip_squares: ||clip||^2
        with_residual: u . sgn(x) R, 0 where there is none.
    """

    squares: Tensor
    with_clip: Tensor
    clip_squares: Tensor
    with_residual: Tensor


def lattice_of(rows: Rows) -> Lattice:
    """What quantizes the rows: of shape () or (n,)."""
    quantizer = rows.entry.quantizer
    assert quantizer is not None
    d, q_m = quantizer.d.detach(), quantizer.q_m.detach()
    if d.ndim and quantizer.axis == rows.entry.dimension:
        d, q_m = d[rows.index], q_m[rows.index]
    return lattice(d, q_m, quantizer.t.detach(), quantizer.bits)


def flat_rows(tensor: Tensor, dimension: int) -> Tensor:
    """Shape (n, len); in float32 at least."""
    rows = tensor.movedim(dimension, 0).reshape(tensor.shape[dimension], -1)
    return rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows


def hold(rows: Rows) -> Held:
    entry = rows.entry
    gathered = rows.gather(entry.parameter.detach())
    x = flat_rows(gathered, entry.dimension)
    if entry.quantizer is None:
        return Held(x, x, None, 1.0)
    on = lattice_of(rows).each(lambda one: to_rows(one, rows, gathered))
    v = bound_(quotient(x, on, out=torch.empty_like(x)), on, entry.quantizer.bits.signed)
    return Held(x, v, v.round().sub_(v), on.d)


def to_rows(steps: Tensor, rows: Rows, like: Tensor) -> Tensor:
    """One number per row or per index of another dimension, to broadcast against (n, len)."""
    assert rows.entry.quantizer is not None
    axis, dimension = rows.entry.quantizer.axis, rows.entry.dimension
    if axis == dimension:
        return steps[:, None]
    wide = steps.view([-1 if i == axis else 1 for i in range(like.ndim)]).expand_as(like)
    return flat_rows(wide, dimension)


def moves_of(rows: Sequence[Rows], held: Sequence[Held], rates: Rates) -> Moves:
    """Sums over rows of what is alpha u = x_before - x_after."""
    columns = [
        move_of(flat_rows(one.gather(one.entry.parameter.detach()), one.entry.dimension), before)
        * per_rate(rates, one.entry.parameter)
        for one, before in zip(rows, held, strict=True)
    ]
    return Moves(*torch.cat(columns, 1))


def move_of(after: Tensor, before: Held) -> Tensor:
    """Shape (4, n), as `Moves` has them, but of alpha u; clip is not multiplied by it."""
    moved = torch.sub(before.x, after, out=after)
    clip = before.v * before.d
    sums = [
        torch.linalg.vector_norm(moved, dim=1).double().square(),
        torch.linalg.vecdot(moved, clip).double(),
        torch.linalg.vector_norm(clip, dim=1).double().square(),
    ]
    none = before.residual is None
    sums.append(torch.zeros_like(sums[0]) if none else torch.linalg.vecdot(moved, before.residual).double())
    return torch.stack(sums)


def per_rate(rates: Rates, parameter: nn.Parameter) -> Tensor:
    """What turns sums of alpha u into sums of u, for each row of `Moves`; a rate of 0 moved nothing."""
    rate = rates[parameter] if isinstance(rates, Mapping) else rates
    alpha = torch.as_tensor(rate, dtype=torch.float64, device=parameter.device)
    inverse = torch.where(alpha > 0, 1 / alpha, 0.0)
    return torch.stack([inverse, inverse, torch.ones_like(inverse), inverse])[:, None]
