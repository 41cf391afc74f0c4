"""The fake quantizer as plain operators, for compilers, which fuse them with their neighbours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext

from .lattice import Bits, Lattice, lattice

__all__ = ["TracedQuantize", "is_traced"]


def is_traced() -> bool:
    """Whether torch.compile is at work; an export keeps the operator."""
    return TracingContext.try_get() is not None and not torch.compiler.is_exporting()


def shaped(on: Lattice, axis: int | None, rank: int) -> Lattice:
    form = [-1 if axis is not None and i == axis % rank else 1 for i in range(rank)]
    return on.each(lambda one: one.view(form))


def quotient(x: Tensor, on: Lattice) -> Tensor:
    """sgn(x) |x|^t / d"""
    x = x.to(torch.promote_types(x.dtype, on.d.dtype))
    return x / on.d if on.t is None else (x.abs().pow(on.t) / on.d).copysign(x)


def bounds(on: Lattice, signed: bool) -> tuple[Any, Any]:
    top = on.top if isinstance(on.top, Tensor) else on.d.new_full((), on.top)
    return -top if signed else torch.zeros_like(top), top


class TracedQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, d: Tensor, q_m: Tensor, t: Tensor | None, *rest: Any) -> Tensor:
        ctx.save_for_backward(x, d, q_m, t)
        ctx.rest = rest
        axis, *bits = rest
        on = shaped(lattice(d, q_m, t, Bits(*bits)), axis, x.ndim)
        v = quotient(x, on).clamp(*bounds(on, bits[0]))
        return (v.round() * on.d).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, d, q_m, t = ctx.saved_tensors
        axis, *bits = ctx.rest
        plain = lattice(d, q_m, t, Bits(*bits))
        on = shaped(plain, axis, x.ndim)
        u, (low, top) = quotient(x, on), bounds(on, bits[0])
        v = u.clamp(low, top)
        g = grad.to(v.dtype)
        edge = 1 + 4 * torch.finfo(v.dtype).eps
        outside = (u < low * edge) | (u > top * edge)
        to_x = torch.where(outside, 0, g)
        def summed(a):
            return a.sum_to_size(on.d.shape).view(d.shape)
        to_d = summed(g * (v.round() - v))
        to_top = summed(torch.where(outside, g, 0) * v)
        if bits[1] == bits[2]:
            from_d, to_d = to_d, torch.zeros_like(d)
        else:
            held = d != plain.d
            from_d, to_d = to_d.where(held, 0), to_d.masked_fill(held, 0)
        to_q = (to_top + from_d) / plain.top * plain.slope()
        to_t = None
        if ctx.needs_input_grad[3]:
            w = v * on.d
            to_t = summed(g * torch.xlogy(w, w.abs())) / plain.t + from_d / plain.top * plain.reach() * plain.q_m.log()
            to_t = to_t.sum()
        return to_x.to(x.dtype), to_d, to_q, to_t, None, None, None, None
