"""The fake quantizer: rounds a tensor to a learnable lattice, and passes gradients to it and to the lattice.

With m = min(|x|, q_m), v = m^t / d (arXiv 2502.16638, equations 1 to 6):

    x_Q       = sgn(x) d round(v)              round half to even
    dx_Q/dx   = 1 inside the range, 0 outside  straight through
    dx_Q/dd   = sgn(x) (round(v) - v)
    dx_Q/dq_m = 0 inside, sgn(x) t q_m^(t-1) outside
    dx_Q/dt   = sgn(x) m^t ln m                0 at x = 0

An unsigned quantizer takes what is negative for 0, and nothing there has a gradient. Where the bounds of
the number of bits decide on d (lattice.py), its gradient goes to q_m and t.

The operator is `torch.ops.getac.fake_quantize`. What stands here runs on any device (the key is
CompositeExplicitAutograd): a kernel for one device, CUDA say, is registered beside it with
`torch.library.impl("getac::fake_quantize", "CUDA")`, the backward operator likewise, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from .lattice import Bits, Lattice, lattice

__all__ = ["Bits", "Lattice", "fake_quantize", "lattice"]

BLOCK = 1 << 15  # elements: what is computed in between stays in the cache, and takes no memory
TINY = torch.finfo(torch.float32).tiny

library = torch.library.Library("getac", "DEF")
library.define(
    "fake_quantize(Tensor x, Tensor d, Tensor q_m, Tensor? t, int? axis, bool signed,"
    " float least_bits, float most_bits) -> Tensor"
)
library.define(
    "fake_quantize_backward(Tensor grad, Tensor x, Tensor d, Tensor q_m, Tensor? t, int? axis, bool signed,"
    " float least_bits, float most_bits, bool exponent) -> (Tensor, Tensor, Tensor, Tensor)"
)


def fake_quantize(
    x: Tensor,
    d: Tensor,
    q_m: Tensor,
    t: Tensor | None = None,
    axis: int | None = None,
    signed: bool = True,
    least_bits: float = 2.0,
    most_bits: float = 16.0,
) -> Tensor:
    """x_Q, in the type and the memory layout of x.

    Args:
        x: Any shape; float64, float32, bfloat16 or float16 (the last two are computed in float32).
        d: The step, of shape () or (size of the axis,).
        q_m: The range, likewise.
        t: The exponent, of shape (); None: it is 1.
        axis: The dimension of x that has a step and a range of its own per index.
        signed: Whether the lattice is symmetric around 0; otherwise it starts there.
        least_bits: The least number of bits, above 1 (signed) or 0.
        most_bits: The greatest.
    """
    op = torch.ops.getac.fake_quantize.default
    quantized: Tensor = op(x, d, q_m, t, axis, signed, least_bits, most_bits)
    return quantized


def in_memory_order(axis: int | None, like: Tensor, *others: Tensor) -> list[Tensor]:
    """Views in the order in which a dense tensor lies in memory: flat, or (outer, the axis, inner)."""
    alike = [like, *(one if one.stride() == like.stride() else torch.empty_like(like).copy_(one) for one in others)]
    order = list(range(like.ndim))
    if not like.is_contiguous():
        order.sort(key=like.stride, reverse=True)
        alike = [one.permute(order) for one in alike]
    if axis is None:
        return [one.view(-1) for one in alike]
    at, shape = order.index(axis % like.ndim), alike[0].shape
    form = prod(shape[:at]), shape[at], prod(shape[at + 1 :])
    return [one.view(form) for one in alike]


def blocks(on: Lattice, views: Sequence[Tensor]) -> Iterator[tuple[Lattice, Sequence[Tensor]]]:
    """The same parts of all views, each with parameters that broadcast against them.

    Fresh memory for all that is computed in between would cost more time than the arithmetic.
    """
    x = views[0]
    if x.ndim == 1:
        here, size = on, BLOCK
    elif len(x) == 1 and x.numel() > BLOCK:
        size = max(BLOCK // x.shape[2], 1)
        for i, parts in enumerate(zip(*(one[0].split(size) for one in views), strict=True)):
            rows = slice(i * size, (i + 1) * size)
            yield on.each(lambda one, rows=rows: one[rows, None]), parts  # type: ignore[misc]
        return
    else:
        here, size = on.each(lambda one: one[:, None]), max(BLOCK // x[0].numel(), 1)
    if x.numel() <= BLOCK or x.device.type != "cpu":
        yield here, views
    else:
        for parts in zip(*(one.split(size) for one in views), strict=True):
            yield here, parts


class Scratch:
    """Memory for what is computed in between, taken once for all blocks.

    Args:
        count: How many tensors.
    """

    def __init__(self, count: int, dtype: torch.dtype) -> None:
        self.count, self.dtype = count, dtype
        self.tensors: Sequence[Tensor] = ()

    def like(self, part: Tensor) -> Sequence[Tensor]:
        if not self.tensors or self.tensors[0].shape != part.shape:
            self.tensors = torch.empty((self.count, *part.shape), dtype=self.dtype, device=part.device).unbind()
        return self.tensors


def quotient(x: Tensor, on: Lattice, out: Tensor) -> Tensor:
    """sgn(x) |x|^t / d, which the range does not bound yet."""
    if on.t is None:
        return torch.div(x, on.d, out=out)
    return torch.abs(x, out=out).pow_(on.t).div_(on.d).copysign_(x)


def bound_(u: Tensor, on: Lattice, signed: bool) -> Tensor:
    """sgn(x) v, in place; what is beyond q_m becomes q_m^t / d."""
    if isinstance(on.top, float):
        return u.clamp_(-on.top if signed else 0.0, on.top)
    torch.minimum(u, on.top, out=u)
    return torch.maximum(u, -on.top, out=u) if signed else u.clamp_(min=0)
