"""In what form a layer on integers adds its bias: in integers where that rounds alike, else in floats.

INT32 counts in steps of s_x s_w. Where getac rounds the weights itself, a bias loses less by that than they
do. A model whose weights are on their lattice already was made with that rounding, but with biases in floats:
with few bits, half a step of a bias sends many results to another level than the model does.

- Gemm: the Add of a row in floats behind it is exact, and takes as long as a bias of INT32.
- Conv: an output in floats would take an integer kernel away. Its sums are whole numbers, so that INT32 can
  be exact as well (`getac.kernels.biases`); with finer steps for weights of few bits, it mostly is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from getac.kernels.biases import Levels, equal_biases, is_on_lattice, reach_of
from getac.kernels.integers import safe_factor
from getac.layers import Weights
from getac.quantizer import Quantizer

__all__ = ["IntegerBias", "integer_bias", "occupied"]

Floats = npt.NDArray[np.float32]

TOLERATED = 1.0
"""How much a rounded bias may weigh (`weight_of_rounding`) before floats are better than an integer kernel,
which takes a third of their time. Up to here some results in a thousand move by one level, as those of any
model do that another tool lowers to INT32 biases.
"""

EIGHT_BITS = 255


@dataclass(frozen=True)
class IntegerBias:
    """A bias that INT32 holds.

    Args:
        factor: How many times finer the weights' lattice is made for it.
        bias: In floats, a whole number of steps away from the one that the model has, or as it is.
    """

    factor: int
    bias: Floats


def integer_bias(weights: Weights, inputs: Quantizer, outputs: Quantizer | None) -> IntegerBias | None:
    """The form in which INT32 does for a bias; None where no form does.

    Args:
        weights: With a bias.
        inputs: The quantizer of what the weights are multiplied by.
        outputs: That of the results; None where they are floats.
    """
    assert weights.bias is not None
    used = occupied(weights)
    factor = safe_factor(used.low, used.high, inputs.high - inputs.low)
    rounded = IntegerBias(power_of_two(factor), weights.bias)
    scale = (np.float32(inputs.step) * used.step).astype(np.float64)
    if not is_rounded(weights) or is_on_lattice(weights.bias, scale / rounded.factor):
        return rounded
    if outputs is None or outputs.axis is not None:
        return None
    levels = Levels(float(outputs.step), outputs.low, outputs.high)
    reach = reach_of(np.moveaxis(used.integers(weights.weight), weights.axis, 0), inputs.low, inputs.high)
    for finer in candidates(factor):
        integers = equal_biases(weights.bias, scale, reach, levels, finer)
        if integers is not None:
            return IntegerBias(finer, (integers * scale / finer).astype(np.float32))
    spread = used.high - used.low
    return rounded if weight_of_rounding(rounded, scale, levels, spread) <= TOLERATED else None


def occupied(weights: Weights) -> Quantizer:
    """The part of a lattice that a weight takes: files store few bits as INT8, whose range says nothing."""
    integers = weights.quantizer.integers(weights.weight)
    return replace(weights.quantizer, low=int(integers.min(initial=0)), high=int(integers.max(initial=1)))


def is_rounded(weights: Weights) -> bool:
    """Whether the weights are on their lattice already."""
    steps = weights.quantizer.steps_for(weights.weight.shape)
    off = np.abs(weights.quantizer.quantize(weights.weight) - weights.weight)
    return bool((off <= 1e-3 * steps).all())


def power_of_two(factor: int) -> int:
    """The greatest one that is not more: stored integers of few bits then come back by a shift."""
    return 1 << (factor.bit_length() - 1)


def candidates(factor: int) -> Iterator[int]:
    yield power_of_two(factor)
    yield from (one for one in range(factor, 1, -1) if one != power_of_two(factor))


def weight_of_rounding(form: IntegerBias, scale: Floats, levels: Levels, spread: int) -> float:
    """The part of a level that a bias is off by, times what a level weighs, which of 8 bits is 1.

    The fewer levels and integers a layer has, the larger a level is, and the fewer others make up for it.

    Args:
        spread: Between the greatest and the least integer of the weights.
    """
    scaled = form.bias / scale * form.factor
    off = np.abs(scaled - np.rint(scaled)) * scale / form.factor / levels.step
    of_levels, of_weights = (max(EIGHT_BITS / one, 1) for one in (levels.high - levels.low, spread))
    return float(off.max()) * of_levels * max(of_levels, of_weights)
