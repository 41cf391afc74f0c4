"""Integer reference arithmetic for weights and biases, in the ranges that integer kernels can hold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["BIAS_LIMIT", "PAIR_LIMIT", "bias_integers", "floored_steps", "safe_factor", "spare_bits"]

Floats = npt.NDArray[np.float32]

BIAS_LIMIT = 2**30
"""Half of what an INT32 accumulator holds: the other half is left to the sum of products."""

PAIR_LIMIT = 2**15 - 1
"""The greatest INT16. CPUs with AVX2 or AVX512 but without VNNI add products of UINT8 and INT8 in pairs in
one, and cut what does not fit. 8-bit weights and activations take that risk on such a CPU.
"""

SMALLEST = float(np.finfo(np.float32).tiny)


def safe_factor(low: int, high: int, activation: int = 255) -> int:
    """The greatest f for which weights from low f to high f are INT8 and safe on any CPU; at least 1.

    Safe: two products with the activation fit PAIR_LIMIT.

    Args:
        activation: The greatest integer that a weight is multiplied by.
    """
    greatest = min(127, PAIR_LIMIT // (2 * max(activation, 1)))
    return max(greatest // max(-low, high, 1), 1)


def spare_bits(low: int, high: int, activation: int = 255) -> int:
    """The greatest m for which 2^m is at most `safe_factor`."""
    return safe_factor(low, high, activation).bit_length() - 1


def floored_steps(steps: Floats, bias: Floats | None, input_step: float) -> Floats:
    """Weight steps that are large enough for the bias to fit: |b| / (s_x s_w) <= 2^30.

    A channel of tiny weights (a dead one) would get a step so small that its bias overflows INT32, which
    onnxruntime does not notice. Neither s_w nor s_x s_w may vanish in float32.

    Args:
        steps: s_w per output channel, shape (channels,); 0 where any step does.
        bias: b in floats, shape (channels,), or None.
        input_step: s_x.
    """
    least = np.full(steps.shape, max(SMALLEST, SMALLEST / input_step))
    if bias is not None:
        least = np.maximum(least, np.abs(bias.astype(np.float64)) / (input_step * BIAS_LIMIT))
    floor = np.nextafter(least.astype(np.float32), np.float32(np.inf))
    return np.asarray(np.maximum(steps, floor), dtype=np.float32)


def bias_integers(bias: Floats, scale: Floats) -> npt.NDArray[np.int32]:
    """round(b / (s_x s_w)), ties to even, as INT32; `scale` is the float32 product that is stored."""
    scaled = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    limits = np.iinfo(np.int32)
    integers: npt.NDArray[np.int32] = np.clip(scaled, limits.min, limits.max).astype(np.int32)
    return integers
