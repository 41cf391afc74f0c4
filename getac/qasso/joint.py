"""The joint stage: redundant units are forgotten, and their steps d follow, around the base optimizer's step.

For a redundant unit with group x, at step k of a period of K steps (arXiv 2502.16638):

    clip  = min(|x|, q_m)^t,   R = round(clip / d) - clip / d           before the step
    u     = (x_before - x_after) / alpha                                what the base rule did: SGD's gradient

    gamma = 0                                                if ||clip|| <= eps
    gamma = 1 - (K - k - 1) / (K - k)                        if u . sgn(x) clip >= 0
    gamma = -(1 - eta) alpha ||u||^2 / (u . sgn(x) clip)     otherwise, 1 at most
    d     = q_m^t / (2^(b_l - 1) - 1)                        if u . sgn(x) R >= 0
    d     = -xi eta alpha ||u||^2 / (gamma u . sgn(x) R)     otherwise
    while d < its lower bound: gamma <- beta gamma, d <- d / beta;   then d is cut to its range
    x    <- x_after - gamma sgn(x) (clip + d R)                         x_Q of x_before

With cos(theta) = u . v / (||u|| ||v||) these are the paper's quotients, and nothing is divided by a norm.
Where d is a unit's own and not cut, both choices make -alpha u - gamma x_Q a direction of descent:
u . (...) <= -alpha eta (1 - xi) ||u||^2. A ramp of gamma (the second line) takes no part in that bound.

gamma is one number per unit. d is one per step size: its sums run over the redundant entries that it rounds,
so each layer of a unit gets a d within its own bounds. Where several redundant units share a step, only
those with u . sgn(x) R < 0 are counted: then the bound holds for their sum, not for each unit. It holds for
none where d is cut to its range, or where the steps are those of other units (of the rows, while these are
columns) and d stays as it is. An index of two redundant units (of a head
and of a dimension of all heads) is forgotten with the greater gamma. What has no quantizer (a bias, a norm)
has clip = |x| and R = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from getac.errors import OptionError
from getac.qasso.pieces import Held, Piece, pieces_of
from getac.qasso.schedule import is_number
from getac.qasso.scratch import Scratch
from getac.qasso.slots import Slots, Steps
from getac.qasso.units import UnitTable

__all__ = ["JointConstants", "JointUpdate", "ZeroUnits"]

ROUNDS = 1000  # of the loop: gamma is 0 in any type by then


@dataclass(frozen=True)
class JointConstants:
    """The constants of the joint stage, under the paper's symbols.

    Args:
        beta: By what gamma shrinks and d grows while d is below its range.
        eta: What a step gives up for forgetting: the share 1 - eta of its descent.
        xi: The share of eta that the rounding may take.
        eps: The norm of clip from which on there is nothing to forget.

    Raises:
        OptionError: beta, eta or xi is not between 0 and 1, or eps is negative.
    """

    beta: float = 0.8
    eta: float = 0.999
    xi: float = 0.9
    eps: float = 1e-8

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            is_good = is_number(value) and (value >= 0 if name == "eps" else 0 < value < 1)
            if not is_good:
                required = "0 or more" if name == "eps" else "a number between 0 and 1, neither of them"
                raise OptionError(
                    "this constant is out of range", where=name, required=required, found=repr(value)
                )


Rates = float | Tensor | Sequence[float | Tensor]
"""The learning rate alpha: one for all, or one for each of `JointUpdate.parameters`."""


@dataclass(frozen=True, eq=False)
class Before:
    """What is known of the redundant rows before the base optimizer's step.

    Args:
        d: The step of each row, 1 without one; shape (rows of all pieces,).
        bounds: See `Slots.bounds`.
    """

    held: Sequence[Held]
    d: Tensor
    bounds: Tensor


@dataclass(frozen=True, eq=False)
class Moves:
    """What the base step did to all redundant rows; shape (rows of all pieces,), in float64.

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


class JointUpdate:
    """Forgets some units over one period. Costs are proportional to what these units own.

        update = JointUpdate(table, units)
        for step in range(steps):
            before = update.gather()
            base.step()
            update.apply(before, lr, step, steps)      exactly zero after the last one

    Args:
        units: The numbers of the redundant units.
    """

    def __init__(self, table: UnitTable, units: Tensor, constants: JointConstants | None = None) -> None:
        self.constants = constants or JointConstants()
        self._count = len(units)
        self._pieces = pieces_of(table.rows(units))
        self._sizes = [one.size for one in self._pieces]
        self._slots = Slots(self._pieces, table.device)
        self._scratch = Scratch()
        doubles = any(
            one.entry.parameter.dtype == torch.float64 for piece in self._pieces for one in piece.rows
        )
        self._dtype = torch.float64 if doubles else torch.float32
        rows = [one for piece in self._pieces for one in piece.rows]
        self.parameters = [one.entry.parameter for one in rows]
        sizes = torch.tensor([len(one.index) for one in rows], dtype=torch.long)
        self._parameter_of = torch.repeat_interleave(sizes).to(table.device)
        layers = max((len(one.owners) for one in rows), default=1)
        none = torch.zeros(layers, 0, dtype=torch.long, device=table.device)
        self._owners = torch.cat([none, *(pad(one.owners, layers, self._count) for one in rows)], 1)

    @torch.no_grad()
    def gather(self) -> Before:
        """What is needed of the redundant rows, before the base optimizer's step."""
        bounds = self._slots.bounds(self._slots.read())
        return Before([piece.hold() for piece in self._pieces], bounds[:, 0], bounds)

    @torch.no_grad()
    def apply(self, before: Before, rates: Rates, step: int, steps: int) -> None:
        """Forgets, after the base optimizer's step.

        Args:
            before: From the last `gather`; it is used up.
            rates: The learning rates of that step.
            step: k, from 0 on.
            steps: K.
        """
        if not self._pieces:
            return
        moves, now = self._moves(before, rates), self._slots.read()
        gamma = self._gamma(moves, 1 / (steps - step))
        gamma, d = self._settle(gamma, moves, now)
        self._slots.write(d)
        if step + 1 == steps:
            for piece in self._pieces:
                piece.fill()
            return
        rate = -self._of_row(gamma)
        of_rounded = rate * self._slots.spread(d, 1.0)
        factors = self._split(rate * before.d - of_rounded, of_rounded)
        parts = list(zip(self._pieces, before.held, factors, strict=True))
        for piece, held, own in reversed(parts):  # the last ones are still in the cache
            piece.add(change_of(piece, held, self._scratch, *own))

    def _split(self, *values: Tensor) -> Sequence[Sequence[Tensor]]:
        """For each piece the part of each of some values per row, shape (n, 1)."""
        columns = (torch.split(one.to(self._dtype)[:, None], self._sizes) for one in values)
        return list(zip(*columns, strict=True))

    def _moves(self, before: Before, rates: Rates) -> Moves:
        """Sums over rows of what is alpha u = x_before - x_after; clip is v d."""
        parts = zip(self._pieces, before.held, self._split(*before.bounds.unbind(1)), strict=True)
        found = [move_of(piece, held, self._scratch, *own) for piece, held, own in parts]
        norms, with_v, v_norms, with_residual = (
            torch.cat(parts).double() for parts in zip(*found, strict=True)
        )
        per = self._per_rate(rates)
        clip = v_norms * before.d
        return Moves(norms.square() * per, with_v * before.d * per, clip.square(), with_residual * per)

    def _per_rate(self, rates: Rates) -> Tensor | float:
        """1 / alpha of each row, or of all; a rate of 0 has moved nothing."""
        device, each = self._owners.device, rates if isinstance(rates, Sequence) else [rates]
        same = {id(one): one for one in each}  # a few groups, of hundreds of parameters
        only = next(iter(same.values())) if len(same) == 1 else None
        if isinstance(only, float):
            return 1 / only if only > 0 else 0.0
        alpha = torch.stack(
            [torch.as_tensor(one, dtype=torch.float64, device=device) for one in same.values()]
        )
        inverse = torch.where(alpha > 0, 1 / alpha, 0.0)
        if len(same) == 1:
            return inverse
        position = {key: i for i, key in enumerate(same)}
        index = torch.tensor([position[id(one)] for one in each]).to(device)
        return inverse[index][self._parameter_of]

    def _gamma(self, moves: Moves, ramp: float) -> Tensor:
        """gamma of each unit before the loop; shape (units + 1,), the last one of nobody."""
        eta, eps = self.constants.eta, self.constants.eps
        sums = (moves.squares, moves.with_clip, moves.clip_squares)
        squares, product, clip = (self._of_unit(one) for one in sums)
        quotient = ((1 - eta) * squares / -product).nan_to_num(nan=ramp).clamp(max=1.0)
        gamma = torch.where(product < 0, quotient, ramp)
        gamma[-1] = 0.0
        return gamma.masked_fill(clip <= eps**2, 0.0)

    def _settle(self, gamma: Tensor, moves: Moves, now: Steps) -> tuple[Tensor, Tensor]:
        """Both after the loop, in closed form: with n rounds d is its first value / beta^n."""
        beta = self.constants.beta
        first = self._d(gamma, moves, now)
        rounds = (first / now.finest).log().div(math.log(beta)).ceil().nan_to_num(nan=0.0).clamp(0, ROUNDS)
        each = self._slots.spread(rounds).expand_as(self._owners).reshape(-1)
        most = torch.zeros_like(gamma).scatter_reduce_(0, self._owners.reshape(-1), each, "amax")
        gamma = gamma * beta**most
        return gamma, self._d(gamma, moves, now).clamp(now.finest, now.coarsest)

    def _d(self, gamma: Tensor, moves: Moves, now: Steps) -> Tensor:
        """The step of each slot, for these gammas."""
        share = self.constants.xi * self.constants.eta
        slope = self._slots.total(self._of_row(gamma) * moves.with_residual.clamp(max=0))
        d = (share * self._slots.total(moves.squares) / -slope).nan_to_num(nan=torch.inf)
        return torch.where(slope < 0, d, now.coarsest)

    def _of_unit(self, values: Tensor) -> Tensor:
        """The sum over each unit's rows; shape (units + 1,)."""
        each = values.expand_as(self._owners).reshape(-1)
        return values.new_zeros(self._count + 1).index_add_(0, self._owners.reshape(-1), each)

    def _of_row(self, gamma: Tensor) -> Tensor:
        return gamma[self._owners].amax(0)


def pad(owners: Tensor, layers: int, none: int) -> Tensor:
    more = owners.new_full((layers - len(owners), owners.shape[1]), none)
    return torch.cat([owners, more])


def move_of(piece: Piece, held: Held, scratch: Scratch, *bounds: Tensor) -> tuple[Tensor, ...]:
    """||alpha u||, alpha u . v, ||v|| and alpha u . sgn(x) R of each row."""
    after, norm = piece.read(scratch), torch.linalg.vector_norm
    moved = torch.sub(held.x, after, out=after)
    v = piece.quotient(held, *bounds)  # in the memory of x, which is not needed any more
    product = scratch.take("product", moved.shape, moved)
    norms, with_v = norm(moved, dim=1), torch.mul(moved, v, out=product).sum(1)
    residual = piece.residual(held, scratch)
    if residual is None:
        return norms, with_v, norm(v, dim=1), torch.zeros_like(norms)
    return norms, with_v, norm(v, dim=1), torch.mul(moved, residual, out=product).sum(1)


def change_of(piece: Piece, held: Held, scratch: Scratch, of_v: Tensor, of_rounded: Tensor) -> Tensor:
    """What is added to the rows: -gamma sgn(x) (clip + d R), with R = round(v) - v; in the memory of v.

    Args:
        of_v: The factor of v, for each row, and that of v + R; shape (n, 1).
    """
    rounded = piece.rounded(held, scratch)
    if rounded is held.v:
        return rounded.mul_(of_rounded)
    return held.v.mul_(of_v).addcmul_(rounded, of_rounded)


class ZeroUnits:
    """Units that are zero and not removed yet: keeps them so.

    Args:
        units: Their numbers.
    """

    def __init__(self, table: UnitTable, units: Tensor) -> None:
        self.rows = table.rows(units)

    @torch.no_grad()
    def hold(self, optimizer: Optimizer | None = None) -> None:
        """Sets their entries to zero, and what the optimizer keeps for these (momentum, second moments)."""
        for one in self.rows:
            parameter = one.entry.parameter
            one.fill(parameter)
            state = optimizer.state.get(parameter, {}) if optimizer is not None else {}
            for kept in state.values():
                if isinstance(kept, Tensor) and kept.shape == parameter.shape:
                    one.fill(kept)
