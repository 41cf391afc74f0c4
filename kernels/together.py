"""The fake quantizer of many small weights in one call: for each of them, calls cost more than arithmetic.

The weights' rows are equally long, so that all rows make one matrix, with a step and a range for each.
Outputs and gradients are those of a call for each weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .fake_quantize import gradients, known, quantized
from .lattice import Bits, lattice

__all__ = ["quantize_together"]


def quantize_together(
    weights: Sequence[Tensor], d: Sequence[Tensor], q_m: Sequence[Tensor], bits: Bits
) -> Sequence[Tensor]:
    """x_Q of each weight; axis 0 is that of the steps, and exponents are 1.

    Args:
        weights: Contiguous, of one type and device; all of them have shape[1:] of the same product.
        d: Of shape (shape[0] of the weight,) each, q_m likewise.
    """
    results: Sequence[Tensor] = Together.apply(bits, *weights, *d, *q_m)  # type: ignore[no-untyped-call]
    return results


class Together(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bits: Bits, *tensors: Tensor) -> tuple[Tensor, ...]:
        count = len(tensors) // 3
        weights = tensors[:count]
        d, q_m = torch.cat(tensors[count : 2 * count]), torch.cat(tensors[2 * count :])
        x = torch.cat([one.flatten(1) for one in weights])
        ctx.bits, ctx.on = bits, known(lattice(d, q_m, None, bits))
        ctx.shapes = [one.shape for one in weights]
        ctx.x, ctx.d = x, d  # copies of ours: saved tensors would be gone after the first of several losses
        ctx.set_materialize_grads(False)
        parts = torch.split(quantized(x, ctx.on, 0, bits.signed), [len(one) for one in weights])
        return tuple(part.view(shape) for part, shape in zip(parts, ctx.shapes, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        """A weight that nothing has used gets no gradient, as if it had been alone."""
        x, d = ctx.x, ctx.d
        sizes = [shape[0] for shape in ctx.shapes]
        rows = torch.split(x, sizes)
        given = [
            torch.zeros_like(row) if grad is None else grad.reshape(row.shape)
            for grad, row in zip(grads, rows, strict=True)
        ]
        found = gradients(torch.cat(given), x, d, ctx.on, 0, ctx.bits, exponent=False)
        to_x, to_d, to_q_m = (torch.split(one, sizes) for one in found[:3])
        shaped = [one.view(shape) for one, shape in zip(to_x, ctx.shapes, strict=True)]
        used = [
            None if grads[i % len(grads)] is None else one for i, one in enumerate((*shaped, *to_d, *to_q_m))
        ]
        return None, *used
