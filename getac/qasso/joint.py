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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from getac.kernels.lattice import Lattice, lattice
from getac.qasso.units import Rows, UnitTable, along

__all__ = ["JointConstants", "JointUpdate", "ZeroUnits"]


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
