"""The joint stage as it is written down: one unit after the other, with norms, angles and a loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from getac.qasso.joint import JointConstants
from getac.qasso.units import Entry, UnitTable
from tests.qasso.nets import group

__all__ = ["Forgotten", "forget_literally", "snapshot"]

Snapshot = Mapping[nn.Parameter, Tensor]


def snapshot(module: nn.Module) -> Snapshot:
    return {one: one.detach().clone() for one in module.parameters()}


@dataclass
class Channel:
    """What one step size rounds of a unit; without a quantizer d is None.

    Args:
        at: Where its d is, in a quantizer of one per channel.
        low, high: The range of d, after the base step.
    """

    entry: Entry
    mask: Tensor
    at: int
    clip: Tensor
    residual: Tensor
    u: Tensor
    low: float = 0.0
    high: float = 0.0
    d: float | None = None


@dataclass
class Forgotten:
    gamma: float
    channels: list[Channel]
    rounds: int


def channels_of(table: UnitTable, unit: int, before: Snapshot, alpha: float) -> list[Channel]:
    found = []
    for entry, mask in group(table, unit):
        for index in mask.view(len(mask), -1).any(1).nonzero()[:, 0].tolist():
            assert entry.dimension == 0
            mine = torch.zeros_like(mask)
            mine[index] = mask[index]
            x = before[entry.parameter][mine]
            u = (x - entry.parameter.detach()[mine]) / alpha
            one = Channel(entry, mine, index, x, torch.zeros_like(x), u)
            if entry.quantizer is not None:
                measure(one, x, before)
            found.append(one)
    return found


def measure(one: Channel, x: Tensor, before: Snapshot) -> None:
    quantizer = one.entry.quantizer
    assert quantizer is not None
    at = one.at if quantizer.d.ndim else ()
    d, q_m, t = before[quantizer.d][at], before[quantizer.q_m][at], before.get(quantizer.t, quantizer.t)
    clip = x.abs().minimum(q_m) ** t
    one.clip = x.sign() * clip
    one.residual = x.sign() * ((clip / d).round() - clip / d)
    reach = float(quantizer.q_m.detach()[at] ** quantizer.t.detach())
    _, least, most = quantizer.bits
    one.low, one.high = reach / (2 ** (most - 1) - 1), reach / (2 ** (least - 1) - 1)


def cosine(a: Tensor, b: Tensor) -> float:
    norms = a.norm() * b.norm()
    return float(a @ b / norms) if norms > 0 else 1.0


def forget_unit(
    table: UnitTable, unit: int, before: Snapshot, alpha: float, k: int, steps: int, of: JointConstants
) -> Forgotten:
    channels = channels_of(table, unit, before, alpha)
    u, clip = torch.cat([one.u for one in channels]), torch.cat([one.clip for one in channels])
    if clip.norm() <= of.eps:
        gamma = 0.0
    elif cosine(u, clip) >= 0:
        gamma = 1 - (steps - k - 1) / (steps - k)
    else:
        gamma = min(-(1 - of.eta) * alpha * float(u.norm()) / (cosine(u, clip) * float(clip.norm())), 1.0)
    rounded = [one for one in channels if one.entry.quantizer is not None]
    for one in rounded:
        angle = cosine(one.u, one.residual)
        if angle >= 0 or gamma == 0:
            one.d = one.high
        else:
            one.d = (
                -of.xi * of.eta * alpha * float(one.u.norm()) / (gamma * angle * float(one.residual.norm()))
            )
    rounds = 0
    while any(one.d < one.low for one in rounded if one.d is not None):
        gamma *= of.beta
        rounds += 1
        for one in rounded:
            assert one.d is not None
            one.d /= of.beta
    for one in rounded:
        assert one.d is not None
        one.d = min(max(one.d, one.low), one.high)
    return Forgotten(gamma, channels, rounds)


@torch.no_grad()
def forget_literally(
    table: UnitTable, units: Tensor, before: Snapshot, alpha: float, k: int, steps: int, of: JointConstants
) -> list[Forgotten]:
    """Changes the parameters after the base step, for units that share neither entries nor steps."""
    every = [forget_unit(table, unit, before, alpha, k, steps, of) for unit in units.tolist()]
    for forgotten in every:
        for one in forgotten.channels:
            x_q = one.clip + (one.d or 0.0) * one.residual
            one.entry.parameter[one.mask] -= forgotten.gamma * x_q
            if one.d is not None:
                assert one.entry.quantizer is not None
                one.entry.quantizer.d[one.at] = one.d
            if k + 1 == steps:
                one.entry.parameter[one.mask] = 0.0
    return every
