"""The fake quantizer: rounds a tensor to a learnable lattice, and passes gradients to it and to the lattice.

With m = min(|x|, q_m), v = m^t / d (arXiv 2502.16638, equations 1 to 6):

    x_Q       = sgn(x) d round(v)              round half to even
    dx_Q/dx   = 1 inside the range, 0 outside  straight through
    dx_Q/dd   = sgn(x) (round(v) - v)
    dx_Q/dq_m = 0 inside, sgn(x) t q_m^(t-1) outside
    dx_Q/dt   = sgn(x) m^t ln m                0 at x = 0

An unsigned quantizer takes what is negative for 0, and nothing there has a gradient. Where the bounds of
the number of bits decide on d (lattice.py), its gradient goes to q_m and t.

The operator is `torch.ops.getac.fake_quantize`; torch.compile sees through it where t is None
(traced_quantize.py), an export keeps it. What stands here runs on any device (the key is
CompositeExplicitAutograd): a kernel for one device, CUDA say, is registered beside it with
`torch.library.impl("getac::fake_quantize", "CUDA")`, that of the backward operator likewise, and nothing
else changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import ahead
from .blocks import BLOCK, Scratch, blocks, in_memory_order
from .lattice import Bits, Lattice, lattice, lattice_of_numbers, number, through_bounds
from .traced_quantize import is_traced, traced_quantize

__all__ = ["Bits", "Lattice", "fake_quantize", "lattice"]

library: Any = torch.library.Library("getac", "DEF")  # type: ignore[no-untyped-call]
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

    Raises:
        TypeError: x has no floating-point numbers.
        ValueError: d, q_m or t have other shapes, or x has no such axis.
    """
    check(x, d, q_m, t, axis)
    op = torch.ops.getac.fake_quantize.default
    quantized: Tensor = op(x, d, q_m, t, axis, signed, least_bits, most_bits)
    return quantized


def check(x: Tensor, d: Tensor, q_m: Tensor, t: Tensor | None, axis: int | None) -> None:
    """What the operator itself takes for granted: it is called for every layer of every step."""
    if not x.is_floating_point():
        raise TypeError(f"x is {x.dtype}, and has to be of floating point")
    if axis is not None and axis not in range(-x.ndim, x.ndim):
        raise ValueError(f"x of shape {tuple(x.shape)} has no axis {axis}")
    each = () if axis is None else (x.shape[axis],)
    if d.shape != q_m.shape or tuple(d.shape) not in ((), each):
        shapes = f"d has shape {tuple(d.shape)}, q_m {tuple(q_m.shape)}"
        raise ValueError(f"{shapes}, and both have to be of shape ()" + (f" or {each}" if each else ""))
    if t is not None and t.ndim:
        raise ValueError(f"t has shape {tuple(t.shape)}, and has to be of shape ()")


def known(on: Lattice) -> Lattice:
    """Bounds that are numbers are quicker than bounds that are tensors."""
    top = on.top if isinstance(on.top, float) else number(on.top)
    return on if top is None else on._replace(top=top)


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


def pass_inside(
    grad: Tensor, u: Tensor, on: Lattice, signed: bool, out: Tensor, spare: Tensor
) -> tuple[Tensor, Tensor]:
    """Writes the gradient where u is in the range, 0 elsewhere; returns bounded u, and free memory."""
    backward_of_clip = torch.ops.aten.hardtanh_backward.grad_input  # its edges are outside, ours are inside
    tiny, eps = torch.finfo(u.dtype).tiny, torch.finfo(u.dtype).eps
    if isinstance(on.top, float):
        edge = on.top * (1 + 4 * eps)
        backward_of_clip(grad, u, -edge if signed else -tiny, edge, grad_input=out)
        return bound_(u, on, signed), spare
    torch.minimum(u, on.top, out=spare)
    v = torch.maximum(spare, -on.top, out=spare) if signed else spare.clamp_(min=0)
    backward_of_clip(grad, torch.sub(v, u, out=out), -tiny, tiny, grad_input=out)
    return v, u


def is_small(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether x is one block as it lies in memory: most weights are, and calls are what they cost."""
    return x.numel() <= BLOCK and x.dtype == dtype and x.is_contiguous()


def broadcast(parameter: Tensor, rank: int, axis: int | None) -> Tensor:
    """What there is one of per index of an axis, against a tensor of that rank."""
    return (
        parameter.view([-1 if i == axis % rank else 1 for i in range(rank)])
        if axis is not None
        else parameter
    )


def wide(part: Tensor, spare: Tensor) -> Tensor:
    """In the type to compute in: types of half precision cannot hold the integers."""
    return part if part.dtype == spare.dtype else spare.copy_(part)


@torch.library.impl(library, "fake_quantize", "CompositeExplicitAutograd")
def forward(
    x: Tensor,
    d: Tensor,
    q_m: Tensor,
    t: Tensor | None,
    axis: int | None,
    signed: bool,
    least: float,
    most: float,
) -> Tensor:
    if torch.is_inference_mode_enabled() and ahead.is_left_out(x, q_m):  # otherwise autograd has asked
        return x.clone()
    return quantized(x, known(lattice(d, q_m, t, Bits(signed, least, most))), axis, signed)


def quantized(x: Tensor, on: Lattice, axis: int | None, signed: bool) -> Tensor:
    """x_Q on a lattice whose bounds are `known`."""
    result = torch.empty_like(x)
    if not x.numel():
        return result
    dtype = torch.promote_types(x.dtype, on.d.dtype)
    if is_small(x, dtype):
        here = on.each(lambda one: broadcast(one, x.ndim, axis))
        return bound_(quotient(x, here, out=result), here, signed).round_().mul_(here.d)
    scratch = Scratch(2, dtype)
    for here, (out, part) in blocks(on, in_memory_order(axis if on.d.ndim else None, result, x)):
        u, v = (out, part) if x.dtype == dtype else scratch.like(out)
        quotient(wide(part, v), here, out=u)
        bound_(u, here, signed).round_()
        torch.mul(u, here.d, out=u)
        if u is not out:
            out.copy_(u)
    return result


@torch.library.impl(library, "fake_quantize_backward", "CompositeExplicitAutograd")
def backward(
    grad: Tensor,
    x: Tensor,
    d: Tensor,
    q_m: Tensor,
    t: Tensor | None,
    axis: int | None,
    signed: bool,
    least: float,
    most: float,
    exponent: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients to x, d, q_m and t; that to t is 0 where it is not asked for."""
    bits = Bits(signed, least, most)
    return gradients(grad, x, d, known(lattice(d, q_m, t, bits)), axis, bits, exponent)


def gradients(
    grad: Tensor, x: Tensor, d: Tensor, on: Lattice, axis: int | None, bits: Bits, exponent: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same, from the lattice that the forward pass has used.

    Args:
        d: The step as given.
        on: Its bounds are `known`.
    """
    to_x, dtype = torch.empty_like(x), torch.promote_types(x.dtype, d.dtype)
    if not x.numel():
        return to_x, torch.zeros_like(d), torch.zeros_like(d), d.new_zeros(())
    to_d, to_top, to_t = slopes_of((to_x, x, grad), on, axis, bits.signed, exponent, dtype)
    to_d, to_q_m, to_reach = through_bounds(d, on, bits, to_d, to_top)
    if exponent:
        to_t = to_t + to_reach * on.reach() * on.q_m.log()
    return to_x, to_d, to_q_m, to_t.sum()


def slopes_of(
    tensors: tuple[Tensor, Tensor, Tensor],
    on: Lattice,
    axis: int | None,
    signed: bool,
    exponent: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `slopes`, for tensors of any size."""
    _, x, grad = tensors
    if is_small(x, dtype) and grad.is_contiguous():
        here = on.each(lambda one: broadcast(one, x.ndim, axis))
        parts: Sequence[Tensor] = tensors if on.d.ndim else [one.view(-1) for one in tensors]
        return slopes(parts, here, signed, exponent, (torch.empty_like(parts[0]), torch.empty_like(parts[0])))
    scratch, sums = Scratch(2 if x.dtype == dtype else 5, dtype), []
    for here, parts in blocks(on, in_memory_order(axis if on.d.ndim else None, *tensors)):
        sums.append(slopes(parts, here, signed, exponent, scratch.like(parts[0])))
    to_d, to_top, to_t = (total(found, on.d) for found in zip(*sums, strict=True))
    return to_d, to_top, to_t


def slopes(
    parts: Sequence[Tensor], on: Lattice, signed: bool, exponent: bool, spare: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Writes the gradient to x; returns what x adds to those to d, to q_m^t (times top), and to t."""
    to_x, x, grad = parts
    u, _, *rest = spare
    inner = rest[0] if rest else to_x
    x, grad = (wide(x, rest[1]), wide(grad, rest[2])) if rest else (x, grad)
    quotient(x, on, out=u)
    v, free = pass_inside(grad, u, on, signed, inner, spare[1])
    if rest:
        to_x.copy_(inner)
    to_t = power_slope(grad, v, on, free) if exponent else on.d.new_zeros(1)
    to_d = summed(grad, torch.round(v, out=free).sub_(v), on.d)
    return to_d, summed(v, torch.sub(grad, inner, out=free), on.d), to_t


def power_slope(grad: Tensor, v: Tensor, on: Lattice, spare: Tensor) -> Tensor:
    """What x adds to the gradient to t: m^t ln m = m^t ln(m^t) / t."""
    power = torch.mul(v, on.d, out=spare)
    found = summed(grad, torch.xlogy(power, power.abs(), out=spare), on.d)
    return found if on.t is None else found / on.t


def summed(a: Tensor, b: Tensor, like: Tensor) -> Tensor:
    """The sum of a b, of all or per index of an axis; b is overwritten."""
    return b.mul_(a).sum_to_size(like.shape).view(-1) if like.ndim else torch.dot(a, b)


def total(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    """What blocks have found: parts of the same sums, or the sums of some channels after the others."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat(list(parts)) if like.numel() != parts[0].numel() else torch.stack(list(parts)).sum(0)


def is_direct(x: Tensor) -> bool:
    """Whether a call of the operator would come here: then a call of what stands here costs less."""
    is_plain = type(x) in (Tensor, torch.nn.Parameter) and x.device.type == "cpu"
    return is_plain and not torch._C._len_torch_dispatch_stack() and not has_own_kernel("CPU")


@cache
def has_own_kernel(key: str) -> bool:
    """Asked once: kernels are registered before there is anything to quantize."""
    names = ("getac::fake_quantize", "getac::fake_quantize_backward")
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for name in names)


class FakeQuantize(torch.autograd.Function):
    """The two operators as one; leaner than what torch.library.register_autograd would generate."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, d: Tensor, q_m: Tensor, t: Tensor | None, *rest: Any) -> Tensor:
        ctx.save_for_backward(x, d, q_m, t)
        ctx.rest, ctx.on = rest, None
        if is_direct(x):
            axis, bits = rest[0], Bits(*rest[1:])
            here = lattice_of_numbers(d, q_m, bits) if t is None else None
            ctx.on = here or known(lattice(d, q_m, t, bits))
            return quantized(x, ctx.on, axis, bits.signed)
        with torch._C._AutoDispatchBelowAutograd():
            result: Tensor = torch.ops.getac.fake_quantize.default(x, d, q_m, t, *rest)
            return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        op, exponent = torch.ops.getac.fake_quantize_backward.default, ctx.needs_input_grad[3]
        if ctx.on is not None:
            x, d, _, _ = ctx.saved_tensors
            axis, *bits = ctx.rest
            *grads, to_t = gradients(grad, x, d, ctx.on, axis, Bits(*bits), exponent)
            return *grads, to_t if exponent else None, None, None, None, None
        *grads, to_t = op(grad, *ctx.saved_tensors, *ctx.rest, exponent)
        return *grads, to_t if exponent else None, None, None, None, None


@torch.library.impl(library, "fake_quantize", "Autograd")
def differentiable(x: Tensor, d: Tensor, q_m: Tensor, t: Tensor | None, *rest: Any) -> Tensor:
    if t is None and is_traced():
        return traced_quantize(x, d, q_m, *rest)
    if ahead.is_left_out(x, q_m):
        return x
    if t is None and (there := ahead.take((x, d, q_m), rest)) is not None:
        return there
    result: Tensor = FakeQuantize.apply(x, d, q_m, t, *rest)  # type: ignore[no-untyped-call]
    return result


@torch.library.register_fake("getac::fake_quantize", lib=library)  # type: ignore[untyped-decorator]
def fake_forward(x: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("getac::fake_quantize_backward", lib=library)  # type: ignore[untyped-decorator]
def fake_backward(
    grad: Tensor, x: Tensor, d: Tensor, q_m: Tensor, t: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(d), torch.empty_like(q_m), d.new_empty(())
