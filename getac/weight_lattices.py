"""Lattices for weights: a step per output unit, or per block of inputs, by what the weights hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from getac.kernels.weight_ranges import best_maximum, blocks_of, coarse_steps
from getac.quantizer import Quantizer

__all__ = ["greatest", "like", "per_block", "per_unit"]

Floats = npt.NDArray[np.float32]


def per_unit(weight: Floats, bits: int, axis: int | None) -> Quantizer:
    """One step per index of the dimension of output units; one for all where there is no dimension.

    With 8 bits the range is that of the greatest weight; with fewer it is the one of least squared error.
    """
    rest = tuple(i for i in range(weight.ndim) if i != axis)
    shape = () if axis is None else (weight.shape[axis],)
    maximum = (
        np.abs(weight).max(axis=rest, keepdims=True)
        if bits >= 8
        else best_maximum(weight, rest, 2 ** (bits - 1) - 1)
    )
    return Quantizer.symmetric(maximum.reshape(shape), bits, axis)


def per_block(weight: Floats, bits: int, axis: int, size: int) -> Quantizer:
    """One step per block of inputs, a multiple of one step per output unit."""
    blocks, high = blocks_of(weight, axis, size), 2 ** (bits - 1) - 1
    maximum = best_maximum(blocks, (axis + 1,), high).squeeze(axis + 1)
    steps = coarse_steps(maximum / np.float32(high), axis)
    return Quantizer(steps, -high, high, axis, size)


def like(other: Quantizer, weight: Floats) -> Quantizer:
    """The lattice of another tensor with steps of this one's own: the same integers, axis and blocks.

    Ranges are found as getac finds them for layers; for integers that are not symmetric, see `greatest`.
    """
    if other.low != -other.high:
        return greatest(other, weight)
    if other.block is None:
        return per_unit(weight, other.bits, other.axis)
    assert other.axis is not None
    return per_block(weight, other.bits, other.axis, other.block)


def greatest(other: Quantizer, weight: Floats) -> Quantizer:
    """The same with the least steps that reach from the least to the greatest number."""
    rest = tuple(i for i in range(weight.ndim) if i != other.axis)
    if other.block is not None:
        assert other.axis is not None
        weight, rest = blocks_of(weight, other.axis, other.block), (other.axis + 1,)
    step = np.zeros((), np.float32)
    for reach, extreme in ((other.low, weight.min(axis=rest)), (other.high, weight.max(axis=rest))):
        if reach:
            step = np.maximum(step, np.asarray(extreme / np.float32(reach), np.float32))
    return replace(other, step=np.where(step > 0, step, np.float32(1)).astype(np.float32))
