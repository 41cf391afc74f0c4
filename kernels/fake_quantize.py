"""The fake quantizer: rounds a tensor to a learnable lattice, and passes gradients to it and to the lattice.

With m = min(|x|, q_m), v = m^t / d (arXiv 2502.16638, equations 1 to 6):

    x_Q       = sgn(x) d round(v)              round half to even
    dx_Q/dx   = 1 inside the range, 0 outside  straight through
    dx_Q/dd   = sgn(x) (round(v) - v)
    dx_Q/dq_m = 0 inside, sgn(x) t q_m^(t-1) outside
    dx_Q/dt   = sgn(x) m^t ln m                0 at x = 0

An unsigned quantizer takes what is negative for 0, and nothing there has a gradient.

The number of bits is b = log2(q_m^t / d + 1) + 1 (one less if unsigned). Two bounds hold it: d is cut to
where b lies between them, and where it is cut, its gradient goes to q_m and t, which then decide. So with
equal bounds the number of bits is fixed, and d = q_m^t / (2^(b-1) - 1).

The operator is `torch.ops.getac.fake_quantize`. It takes parameters that training pushed out of their
domain (d or q_m at zero or below, an exponent that overflows) for the nearest ones that can be used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Bits", "Lattice", "fake_quantize", "lattice"]

LEAST = 1e-12  # of q_m and d: the smallest that keeps 1 / d^2 finite in float32
GREATEST = 1e15  # of q_m, q_m^t and its slope: their products with gradients stay finite too
EXPONENTS = (1 / 16, 16.0)
BLOCK = 1 << 15  # elements: what is computed in between stays in the cache, and takes no memory

library = torch.library.Library("getac", "DEF")
library.define(
    "fake_quantize(Tensor x, Tensor d, Tensor q_m, Tensor t, int? axis, bool signed,"
    " float least_bits, float most_bits) -> Tensor"
)
library.define(
    "fake_quantize_backward(Tensor grad, Tensor x, Tensor d, Tensor q_m, Tensor t, int? axis, bool signed,"
    " float least_bits, float most_bits, bool exponent) -> (Tensor, Tensor, Tensor, Tensor)"
)


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
        """q_m^t / d at a number of bits: 2^(b-1) - 1, or 2^b - 1 without a sign."""
        return float(2 ** (bits - 1) - 1 if self.signed else 2**bits - 1)

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

    def slope(self) -> Tensor | float:
        """d(q_m^t)/dq_m = t q_m^(t-1)"""
        return 1.0 if self.t is None else (self.t * self.q_m.pow(self.t - 1)).clamp(max=GREATEST)

    def reach(self) -> Tensor:
        """q_m^t"""
        return self.q_m if self.t is None else self.q_m.pow(self.t).clamp(max=GREATEST)

    def each(self, change: Callable[[Tensor], Tensor]) -> Lattice:
        """Changes what there is one of per index of an axis."""
        return Lattice(*(change(one) if isinstance(one, Tensor) and one.ndim else one for one in self))


def lattice(d: Tensor, q_m: Tensor, t: Tensor, bits: Bits) -> Lattice:
    """The parameters that can be used, next to the given ones."""
    exponent = None if number(t) == 1.0 else t.clamp(*EXPONENTS)
    greatest = bits.top(bits.most)
    on = Lattice(d, q_m.clamp(LEAST, GREATEST), exponent, greatest)
    finest = on.reach() / greatest
    if bits.fixed:
        return on._replace(d=finest)
    step = torch.minimum(torch.maximum(d, finest), on.reach() / bits.top(bits.least))
    top = on.reach() / step
    return on._replace(d=step, top=top if number(top) is None else top.item())


def number(parameter: Tensor) -> float | None:
    """A parameter as a number, where nobody has to wait for a device to know it."""
    return parameter.item() if parameter.ndim == 0 and parameter.device.type == "cpu" else None


def fake_quantize(
    x: Tensor,
    d: Tensor,
    q_m: Tensor,
    t: Tensor,
    axis: int | None = None,
    signed: bool = True,
    least_bits: float = 2.0,
    most_bits: float = 16.0,
) -> Tensor:
    """x_Q, in the type of x.

    Args:
        x: Any shape; float64, float32, bfloat16 or float16 (the last two are computed in float32).
        d: The step, of shape () or (size of the axis,).
        q_m: The range, likewise.
        t: The exponent, of shape ().
        axis: The dimension of x that has a step and a range of its own per index.
        signed: Whether the lattice is symmetric around 0; otherwise it starts there.
        least_bits: The least number of bits, above 1 (signed) or 0.
        most_bits: The greatest.
    """
    quantized: Tensor = torch.ops.getac.fake_quantize(x, d, q_m, t, axis, signed, least_bits, most_bits)
    return quantized


def blocks(on: Lattice, axis: int | None, *tensors: Tensor) -> Iterator[tuple[Lattice, Sequence[Tensor]]]:
    """The same parts of tensors of one shape, each with parameters that broadcast against them.

    What is large and lies in memory in order is cut: taking fresh memory for what is computed in between
    would cost more time than the arithmetic.
    """
    x = tensors[0]
    channels = None if axis is None or on.d.ndim == 0 else axis % x.ndim
    whole = x.numel() <= BLOCK or x.device.type != "cpu" or not all(one.is_contiguous() for one in tensors)
    if channels is not None and (whole or channels > 0):
        form = [-1 if i == channels else 1 for i in range(x.ndim)]
        yield on.each(lambda one: one.view(form)), tensors
    elif whole:
        yield on, tensors
    elif channels is None:
        for parts in zip(*(one.view(-1).split(BLOCK) for one in tensors), strict=True):
            yield on, parts
    else:
        rows = max(BLOCK // (x.numel() // len(x)), 1)
        columns = zip(*(one.view(len(x), -1).split(rows) for one in tensors), strict=True)
        for position, parts in enumerate(columns):
            here = slice(position * rows, (position + 1) * rows)
            yield on.each(lambda one, here=here: one[here, None]), parts  # type: ignore[misc]


def quotient(x: Tensor, on: Lattice, signed: bool) -> Tensor:
    """sgn(x) min(|x|, q_m)^t / d, in a new tensor."""
    if on.t is None:
        return (x / on.d).clamp_(-on.top if signed else 0 * on.top, on.top)
    cut = x.clamp(-on.q_m if signed else torch.zeros_like(on.q_m), on.q_m)
    return cut.abs().pow_(on.t).div_(on.d).copysign_(cut)


def pass_inside(grad: Tensor, x: Tensor, on: Lattice, signed: bool) -> Tensor:
    """The gradient where x is in the range, 0 elsewhere."""
    edge = number(on.q_m)
    if edge is None:
        return grad.masked_fill(x.abs() > on.q_m if signed else (x < 0).logical_or_(x > on.q_m), 0)
    finfo = torch.finfo(x.dtype)  # hardtanh's edges are outside, ours inside: the next number after them
    least = -edge * (1 + finfo.eps) if signed else -finfo.tiny
    inside: Tensor = torch.ops.aten.hardtanh_backward(grad, x, least, edge * (1 + finfo.eps))
    return inside


def widest(x: Tensor, d: Tensor) -> torch.dtype:
    """What to compute in: types of half precision cannot hold the integers."""
    return torch.promote_types(x.dtype, d.dtype)


@torch.library.impl(library, "fake_quantize", "CompositeExplicitAutograd")
def forward(
    x: Tensor, d: Tensor, q_m: Tensor, t: Tensor, axis: int | None, signed: bool, least: float, most: float
) -> Tensor:
    result, on = torch.empty_like(x), lattice(d, q_m, t, Bits(signed, least, most))
    for here, (part, out) in blocks(on, axis, x, result):
        torch.mul(quotient(part.to(widest(x, d)), here, signed).round_(), here.d, out=out)
    return result


@torch.library.impl(library, "fake_quantize_backward", "CompositeExplicitAutograd")
def backward(
    grad: Tensor,
    x: Tensor,
    d: Tensor,
    q_m: Tensor,
    t: Tensor,
    axis: int | None,
    signed: bool,
    least: float,
    most: float,
    exponent: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients to x, d, q_m and t; that to t is 0 where it is not asked for."""
    bits, sums, to_x = Bits(signed, least, most), [], torch.empty_like(x)
    on = lattice(d, q_m, t, bits)
    for here, (part, slope, out) in blocks(on, axis, x, grad, to_x):
        sums.append(slopes(part.to(widest(x, d)), slope.to(widest(x, d)), out, here, signed, exponent))
    to_d, to_top, to_t = (total(parts, d) for parts in zip(*sums, strict=True))
    held = torch.ones_like(d, dtype=torch.bool) if bits.fixed else d != on.d
    from_d = to_d.where(held, 0) / on.top  # where the bounds decide, d = q_m^t / top
    to_q_m = (to_top / on.top + from_d) * on.slope()
    if exponent:
        to_t = to_t + from_d * on.reach() * on.q_m.log()
    return to_x, to_d.masked_fill(held, 0), to_q_m, to_t.sum()


def slopes(
    x: Tensor, grad: Tensor, to_x: Tensor, on: Lattice, signed: bool, exponent: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Writes the gradient to x; returns what x adds to those to d, to q_m^t (times top), and to t."""
    v = quotient(x, on, signed)
    inner = pass_inside(grad, x, on, signed)
    to_x.copy_(inner)
    to_top = summed(torch.sub(grad, inner, out=inner), v, on.d)
    to_t = torch.zeros_like(to_top)
    if exponent:
        to_t = summed(grad, torch.xlogy(v * on.d, x.abs().minimum(on.q_m)), on.d)
    return summed(grad, v.round().sub_(v), on.d), to_top, to_t


def summed(a: Tensor, b: Tensor, like: Tensor) -> Tensor:
    """The sum of a b, of all or per index of an axis."""
    return (
        (a * b).sum_to_size(like.shape).reshape(-1) if like.ndim else torch.dot(a.reshape(-1), b.reshape(-1))
    )


def total(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    """What blocks have found: parts of one sum, or the sums of one channel after the other."""
    return torch.cat(list(parts)) if like.ndim else torch.stack(list(parts)).sum()


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, d, q_m, t, *ctx.rest = inputs
    ctx.save_for_backward(x, d, q_m, t)


def differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    exponent = ctx.needs_input_grad[3]
    grads = torch.ops.getac.fake_quantize_backward(grad, *ctx.saved_tensors, *ctx.rest, exponent)
    return *grads, None, None, None, None


torch.library.register_autograd(
    "getac::fake_quantize", differentiate, setup_context=setup_context, lib=library
)


@torch.library.register_fake("getac::fake_quantize", lib=library)
def _(x: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("getac::fake_quantize_backward", lib=library)
def _(grad: Tensor, x: Tensor, d: Tensor, q_m: Tensor, t: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(one) for one in (x, d, q_m, t))
