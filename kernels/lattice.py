"""The lattice of a fake quantizer: the step, the range and the exponent that can be used.

The number of bits is b = log2(q_m^t / d + 1) + 1 (one less if unsigned; arXiv 2502.16638, equation 3). Two
bounds hold it: d is cut to where b lies between them. With equal bounds d = q_m^t / (2^(b-1) - 1).

Parameters that training pushed out of their domain (d or q_m at zero or below, an exponent that overflows)
are taken for the nearest ones that can be used (domain.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .domain import EXPONENTS, GREATEST, LEAST, VANISHING, top_of

__all__ = [
    "EXPONENTS",
    "GREATEST",
    "LEAST",
    "Bits",
    "Lattice",
    "lattice",
    "lattice_of_numbers",
    "number",
    "through_bounds",
]


class Bits(NamedTuple):
    """What bounds the step.

    Args:
        signed: Whether the lattice is symmetric around 0; otherwise it starts there.
        least: The least number of bits, above 1 (signed) or 0.
        most: The greatest.
    """

    signed: bool
    least: float
    most: float

    def top(self, bits: float) -> float:
        """q_m^t / d at a number of bits."""
        return top_of(bits, self.signed)

    @property
    def fixed(self) -> bool:
        return self.least == self.most


class Lattice(NamedTuple):
    """The parameters that a quantizer really uses; each of shape () or (size of the axis,).

    Args:
        d: The step, within the bounds that the numbers of bits set.
        q_m: The range.
        t: The exponent; None: it is 1.
        top: q_m^t / d, the greatest v.
    """

    d: Tensor
    q_m: Tensor
    t: Tensor | None
    top: Tensor | float

    def reach(self) -> Tensor:
        """q_m^t"""
        return self.q_m if self.t is None else self.q_m.pow(self.t).clamp(VANISHING, GREATEST)

    def slope(self) -> Tensor | float:
        """d(q_m^t)/dq_m = t q_m^(t-1)"""
        return 1.0 if self.t is None else (self.t * self.q_m.pow(self.t - 1)).clamp(max=GREATEST)

    def each(self, change: Callable[[Tensor], Tensor]) -> Lattice:
        """Changes what there is one of per index of an axis."""
        d, q_m = (change(one) if one.ndim else one for one in (self.d, self.q_m))
        top = change(self.top) if isinstance(self.top, Tensor) and self.top.ndim else self.top
        return Lattice(d, q_m, self.t, top)  # there is one exponent for all


def lattice(d: Tensor, q_m: Tensor, t: Tensor | None, bits: Bits) -> Lattice:
    """The parameters that can be used, next to the given ones.

    Args:
        d: The step, of shape () or (size of an axis,).
        q_m: The range, likewise.
        t: The exponent, of shape (); None: it is 1.
        bits: What bounds the step.
    """
    exponent = None if t is None or number(t) == 1.0 else t.clamp(*EXPONENTS)
    greatest = bits.top(bits.most)
    q_m = q_m.clamp(LEAST, GREATEST)
    reach = Lattice(d, q_m, exponent, greatest).reach()
    finest = reach / greatest
    if bits.fixed:
        return Lattice(finest, q_m, exponent, greatest)
    step = torch.minimum(torch.maximum(d, finest), reach / bits.top(bits.least))
    return Lattice(step, q_m, exponent, reach / step)


def lattice_of_numbers(d: Tensor, q_m: Tensor, bits: Bits) -> Lattice | None:
    """The same for one step on a CPU, from its parameters as numbers: operators would cost more.

    Returns:
        None where d and q_m are not scalars in float32, or cannot be used as they are.
    """
    if d.ndim or d.device.type != "cpu" or d.dtype != torch.float32 or q_m.dtype != torch.float32:
        return None
    step, reach = np.float32(d.item()), np.float32(q_m.item())
    if not LEAST <= reach <= GREATEST:
        return None
    most = bits.top(bits.most)
    if bits.fixed:
        return Lattice(q_m / most, q_m, None, most)
    if not reach / np.float32(most) <= step <= reach / np.float32(bits.top(bits.least)):
        return None
    return Lattice(d, q_m, None, float(reach / step))


def number(parameter: Tensor) -> float | None:
    """A parameter as a number, where nobody has to wait for a device to know it."""
    return parameter.item() if parameter.ndim == 0 and parameter.device.type == "cpu" else None


def through_bounds(
    d: Tensor, on: Lattice, bits: Bits, to_d: Tensor, to_top: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients to d, to q_m, and to q_m^t by way of the bounds, which set d = q_m^t / top.

    Args:
        d: The step as given.
        on: The lattice that came of it.
        bits: Its bounds.
        to_d: The gradient to the step that is used.
        to_top: The gradient to q_m^t with that step held, times top.
    """
    if bits.fixed:
        from_d, to_d = to_d / on.top, torch.zeros_like(d)
    elif d is on.d:
        return to_d, to_top / on.top, torch.zeros_like(d)
    else:
        bounded = d != on.d
        from_d, to_d = to_d.where(bounded, 0) / on.top, to_d.masked_fill(bounded, 0)
    to_q_m = to_top / on.top + from_d
    return to_d, to_q_m if on.t is None else to_q_m * on.slope(), from_d
