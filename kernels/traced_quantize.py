"""The fake quantizer (t = 1) as plain operators, which a compiler fuses with their neighbours.

The formulas and their roundings are those of fake_quantize.py: the outputs are the same to the last bit.
An exponent would cost a power per element whatever its value is, so with one the operator stays whole.

Forward divides and then clips, backward clips and then divides: the same numbers to a rounding, but no
operation of the size of x in common. What they have in common AOTAutograd may compute once and keep from
one pass to the other, and it does so where layers share a parameter or a constant.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext  # no public function tells that AOTAutograd is tracing
from torch.autograd.function import once_differentiable

from .lattice import Bits, lattice, through_bounds

__all__ = ["is_traced", "traced_quantize"]


def is_traced() -> bool:
    """Whether torch.compile is at work, and not an export."""
    return TracingContext.try_get() is not None and not torch.compiler.is_exporting()


def traced_quantize(x: Tensor, d: Tensor, q_m: Tensor, *rest: Any) -> Tensor:
    """x_Q; the arguments are those of the operator without t."""
    result: Tensor = TracedQuantize.apply(x, d, q_m, *rest)  # type: ignore[no-untyped-call]
    return result


def bounded(x: Tensor, edge: Any, signed: bool) -> Tensor:
    """x within an edge that is a tensor or a number."""
    return x.clamp(-edge if signed else 0 * edge, edge)


def beyond(x: Tensor, edge: Tensor, signed: bool) -> Tensor:
    """Where an edge makes a difference of more than a rounding."""
    edge = edge * (1 + 4 * torch.finfo(x.dtype).eps)
    return x.abs() > edge if signed else (x < 0) | (x > edge)


class TracedQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, d: Tensor, q_m: Tensor, axis: int | None, *bits: Any) -> Tensor:
        ctx.save_for_backward(x, d, q_m)
        ctx.form = [-1 if axis is not None and i == axis % x.ndim else 1 for i in range(x.ndim)]
        ctx.bits = Bits(*bits)
        on = lattice(d, q_m, None, ctx.bits).each(lambda one: one.view(ctx.form))
        u = x.to(torch.promote_types(x.dtype, d.dtype)) / on.d
        return (bounded(u, on.top, ctx.bits.signed).round() * on.d).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, d, q_m = ctx.saved_tensors
        lattice_on = lattice(d, q_m, None, ctx.bits)
        on = lattice_on.each(lambda one: one.view(ctx.form))
        dtype = torch.promote_types(x.dtype, d.dtype)
        wide, grad = x.to(dtype), grad.to(dtype)
        v = bounded(wide, on.q_m, ctx.bits.signed) / on.d
        outside = beyond(wide, on.q_m, ctx.bits.signed)
        to_d = (grad * (v.round() - v)).sum_to_size(on.d.shape).view(d.shape)
        to_top = (grad.where(outside, 0) * v).sum_to_size(on.d.shape).view(d.shape)
        to_d, to_q_m, _ = through_bounds(d, lattice_on, ctx.bits, to_d, to_top)
        return grad.masked_fill(outside, 0).to(x.dtype), to_d, to_q_m, None, None, None, None
