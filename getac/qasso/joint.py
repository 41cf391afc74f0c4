"""The joint stage: redundant units are forgotten, and their steps d follow, around the base optimizer's step.

For a redundant unit with group x, at step k of a period of K steps (arXiv 2502.16638, section 5.3):

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
Both choices make -alpha u - gamma x_Q a direction of descent: u . (...) <= -alpha eta (1 - xi) ||u||^2.

gamma is one number per unit. d is one per step size: its sums run over the redundant entries that it rounds,
so each layer of a unit gets a d within its own bounds. Where several redundant units share a step, only
those with u . sgn(x) R < 0 are counted, which keeps the descent. An index of two redundant units (of a head
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

from getac.qasso.moves import Held, Moves, Rates, hold, moves_of
from getac.qasso.slots import Slots, bounds_of, write_step
from getac.qasso.units import Rows, UnitTable

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
    """

    beta: float = 0.8
    eta: float = 0.999
    xi: float = 0.9
    eps: float = 1e-8


class JointUpdate:
    """Forgets some units over one period. Costs are proportional to what these units own.

        update = JointUpdate(table, units)
        for step in range(steps):
            held = update.gather()
            base.step()
            update.apply(held, lr, step, steps)      exactly zero after the last one

    Args:
        units: The numbers of the redundant units.
    """

    def __init__(self, table: UnitTable, units: Tensor, constants: JointConstants | None = None) -> None:
        self.constants = constants or JointConstants()
        self.count = len(units)
        self.rows = table.rows(units)
        self._slots = Slots.of(self.rows, table.device)
        layers = max((len(one.owners) for one in self.rows), default=1)
        padded = [pad(one.owners, layers, self.count) for one in self.rows]
        self._owners = torch.cat(padded, 1) if padded else torch.zeros(1, 0, dtype=torch.long)

    @torch.no_grad()
    def gather(self) -> list[Held]:
        """What is needed of the redundant rows, before the base optimizer's step."""
        return [hold(one) for one in self.rows]

    @torch.no_grad()
    def apply(self, held: Sequence[Held], rates: Rates, step: int, steps: int) -> None:
        """Forgets, after the base optimizer's step.

        Args:
            held: From `gather`.
            rates: The learning rates of that step.
            step: k, from 0 on.
            steps: K.
        """
        if not self.rows:
            return
        moves = moves_of(self.rows, held, rates)
        finest, coarsest = bounds_of(self.rows, moves.squares.device)
        gamma = self._gamma(moves, 1 / (steps - step))
        gamma, d = self._settle(gamma, moves, finest, coarsest)
        sizes = [len(one.index) for one in self.rows]
        rates_of_rows = torch.split(self._of_row(gamma), sizes)
        d_of_rows = torch.split(d, list(self._slots.counts))
        for rows, before, rate, mine in zip(self.rows, held, rates_of_rows, d_of_rows, strict=True):
            write_step(rows, mine)
            if step + 1 == steps:
                rows.fill(rows.entry.parameter)
            else:
                forget(rows, before, rate, mine)

    def _gamma(self, moves: Moves, ramp: float) -> Tensor:
        """gamma of each unit before the loop; shape (units + 1,), the last one of nobody."""
        eta, eps = self.constants.eta, self.constants.eps
        squares, product, clip = (
            self._of_unit(one) for one in (moves.squares, moves.with_clip, moves.clip_squares)
        )
        quotient = ((1 - eta) * squares / -product).nan_to_num(nan=ramp).clamp(max=1.0)
        gamma = torch.where(product < 0, quotient, ramp)
        gamma[-1] = 0.0
        return gamma.masked_fill(clip <= eps**2, 0.0)

    def _settle(self, gamma: Tensor, moves: Moves, finest: Tensor, coarsest: Tensor) -> tuple[Tensor, Tensor]:
        """Both after the loop, in closed form: with n rounds d is its first value / beta^n."""
        beta = self.constants.beta
        first = self._d(gamma, moves, coarsest)
        rounds = (first / finest).log().div(math.log(beta)).ceil().clamp(0, ROUNDS).nan_to_num(nan=0.0)
        most = torch.zeros_like(gamma)
        each = self._slots.spread(rounds).expand_as(self._owners).reshape(-1)
        most.scatter_reduce_(0, self._owners.reshape(-1), each, "amax")
        gamma = gamma * beta**most
        d = self._d(gamma, moves, coarsest)
        return gamma, torch.minimum(torch.maximum(d, finest), coarsest)

    def _d(self, gamma: Tensor, moves: Moves, coarsest: Tensor) -> Tensor:
        """The step of each slot, for these gammas."""
        share = self.constants.xi * self.constants.eta
        slope = self._slots.total(self._of_row(gamma) * moves.with_residual.clamp(max=0))
        d = (share * self._slots.total(moves.squares) / -slope).nan_to_num(nan=torch.inf)
        return torch.where(slope < 0, d, coarsest)

    def _of_unit(self, values: Tensor) -> Tensor:
        """The sum over each unit's rows; shape (units + 1,)."""
        each = values.expand_as(self._owners).reshape(-1)
        return values.new_zeros(self.count + 1).index_add_(0, self._owners.reshape(-1), each)

    def _of_row(self, gamma: Tensor) -> Tensor:
        return gamma[self._owners].amax(0)


def pad(owners: Tensor, layers: int, none: int) -> Tensor:
    more = owners.new_full((layers - len(owners), owners.shape[1]), none)
    return torch.cat([owners, more])


def forget(rows: Rows, before: Held, gamma: Tensor, d: Tensor) -> None:
    """x <- x - gamma sgn(x) (clip + d R), with the new d where it belongs to the rows."""
    entry, column = rows.entry, gamma.to(before.x.dtype)[:, None]
    forgotten = before.v * before.d
    if before.residual is not None:
        step = d.to(before.x.dtype).expand(len(gamma))[:, None] if entry.steers else before.d
        forgotten += before.residual * step
    forgotten *= -column
    others = [size for i, size in enumerate(entry.parameter.shape) if i != entry.dimension]
    delta = forgotten.view(len(gamma), *others).movedim(0, entry.dimension)
    entry.parameter.index_add_(entry.dimension, rows.index, delta.to(entry.parameter.dtype))


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
