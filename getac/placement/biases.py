"""In what form a layer on integers adds its bias: in integers where that rounds alike, else in floats.

INT32 counts in steps of s_x s_w. Where getac rounds the weights itself, a bias loses less by that than they
do. A model whose weights are on their lattice already was made with that rounding, but with biases in floats:
with few bits, half a step of a bias sends many results to another level than the model does.

- Gemm: the Add of a row in floats behind it is exact, and takes as long as a bias of INT32.
- Conv: an output in floats would take an integer kernel away. Its sums are whole numbers, so that INT32 can
  be exact as well, mostly with a weight step a thousandth larger or smaller (`getac.kernels.biases`), and the
  likelier the finer its steps are. Few bits leave room for that: in INT8 for the weights, at no cost, and in
  UINT8 for what is read, at that of a Mul (`getac.onnx_graph.finer_reading`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from getac.kernels.biases import Fitted, Levels, Thresholds, is_on_lattice, reach_of, thresholds_of
from getac.kernels.integers import PAIR_LIMIT, safe_factor
from getac.layers import Weights
from getac.quantizer import Quantizer

__all__ = ["Finer", "IntegerBias", "integer_bias", "occupied"]

Floats = npt.NDArray[np.float32]

TOLERATED = 1 / 200
"""The mean square error, in steps of 8 bits, up to which a bias that is rounded is better than floats, which
take three times as long. Convolutions of 8 bits have 0.0001 to 0.004; networks that were trained with them
end up 0.6 of a step away after 8, and two steps after 21. A first convolution that writes 4 bits has 0.02 to
0.04, and its network ends up 2 to 28 steps away; that one takes as long in floats.
"""

EIGHT_BITS = 255


@dataclass(frozen=True)
class Finer:
    """How many times finer lattices are made for a bias: that of the weights, and that of what is read."""

    weights: int = 1
    inputs: int = 1

    @property
    def both(self) -> int:
        return self.weights * self.inputs


@dataclass(frozen=True)
class IntegerBias:
    """A bias that INT32 holds.

    Args:
        bias: In floats, so many whole steps, or as the model has it.
        stretch: What the weights and their steps are multiplied by for it, shape (units,); None: nothing.
    """

    finer: Finer
    bias: Floats
    stretch: Floats | None = None

    def put_in(self, weights: Weights) -> Weights:
        """The same integers, with this bias and the steps for it."""
        if self.stretch is None:
            return replace(weights, bias=self.bias)
        along = self.stretch.reshape([-1 if i == weights.axis else 1 for i in range(weights.weight.ndim)])
        lattice = replace(weights.quantizer, step=weights.quantizer.step * self.stretch)
        return replace(weights, weight=weights.weight * along, bias=self.bias, quantizer=lattice)


def integer_bias(weights: Weights, inputs: Quantizer, outputs: Quantizer | None) -> IntegerBias | None:
    """The form in which INT32 does for a bias; None where no form does.

    Args:
        weights: With a bias.
        inputs: The quantizer of what the weights are multiplied by.
        outputs: That of the results; None where they are floats.
    """
    assert weights.bias is not None
    used = occupied(weights)
    plain = Finer(finest_weights(used, inputs))
    scale = np.float64(inputs.step) * used.step  # a product of float32 may vanish
    if not is_rounded(weights) or is_on_lattice(weights.bias, scale / plain.both):
        return IntegerBias(plain, weights.bias)
    if outputs is None or outputs.axis is not None:
        return None
    levels = Levels(float(outputs.step), outputs.low, outputs.high)
    reach = reach_of(np.moveaxis(used.integers(weights.weight), weights.axis, 0), inputs.low, inputs.high)
    finer, found = best_fit(thresholds_of(weights.bias, scale, reach, levels), ways(used, inputs))
    if mean_square(found, levels) > TOLERATED:
        return None
    bias = found.integers * scale * found.stretch / finer.both
    return IntegerBias(finer, bias.astype(np.float32), found.stretch.astype(np.float32))


def best_fit(thresholds: Thresholds, ways: Iterable[Finer]) -> tuple[Finer, Fitted]:
    """The first way in which no result changes, else the one in which the fewest do."""
    found: list[tuple[Finer, Fitted]] = []
    for finer in ways:
        found.append((finer, thresholds.fitted(finer.both)))
        if not found[-1][1].moved.any():
            break
    return min(found, key=lambda one: float(one[1].moved.mean()))


def occupied(weights: Weights) -> Quantizer:
    """The part of a lattice that a weight takes: files store few bits as INT8, whose range says nothing."""
    integers = weights.quantizer.integers(weights.weight)
    return replace(weights.quantizer, low=int(integers.min(initial=0)), high=int(integers.max(initial=1)))


def is_rounded(weights: Weights) -> bool:
    """Whether the weights are on their lattice already."""
    steps = weights.quantizer.steps_for(weights.weight.shape)
    off = np.abs(weights.quantizer.quantize(weights.weight) - weights.weight)
    return bool((off <= 1e-3 * steps).all())


def ways(weights: Quantizer, inputs: Quantizer) -> Iterator[Finer]:
    """Inputs as they are; then finer, in powers of two and otherwise, each time the finest first."""
    span, greatest = max(inputs.high - inputs.low, 1), max(-weights.low, weights.high, 1)
    most = max(min(EIGHT_BITS // span, PAIR_LIMIT // (2 * span * greatest)), 1)
    for times in sorted(range(1, most + 1), key=lambda one: (one > 1, one & (one - 1) > 0, -one)):
        yield Finer(finest_weights(weights, inputs, times), times)


def finest_weights(weights: Quantizer, inputs: Quantizer, times: int = 1) -> int:
    """How many times finer weights can be where inputs are so many times finer.

    A power of two: integers that are stored in few bits then come back by a shift.
    """
    factor = safe_factor(weights.low, weights.high, times * (inputs.high - inputs.low))
    return 1 << (factor.bit_length() - 1)


def mean_square(fitted: Fitted, levels: Levels) -> float:
    """What the rounding of a bias adds to the results, in squared steps of 8 bits over their range."""
    return float(fitted.moved.mean()) * max(EIGHT_BITS / max(levels.high - levels.low, 1), 1) ** 2
