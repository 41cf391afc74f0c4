"""Where the parameters of a quantizer can be used; outside, training takes the nearest that can.

The number of bits is b = log2(q_m^t / d + 1) + 1 (one less if unsigned; arXiv 2502.16638, equation 3).
"""

from __future__ import annotations

__all__ = ["EXPONENTS", "GREATEST", "LEAST", "VANISHING", "top_of"]

LEAST = 1e-12  # of q_m: the smallest that keeps 1 / d^2 finite in float32
GREATEST = 1e15  # of q_m, q_m^t and its slope: their products with gradients stay finite too
VANISHING = 1e-30  # of q_m^t with an exponent: a step remains that is no zero
EXPONENTS = (1 / 16, 16.0)


def top_of(bits: float, signed: bool) -> float:
    """q_m^t / d at a number of bits: 2^(b-1) - 1, or 2^b - 1 without a sign."""
    return float(2 ** (bits - 1) - 1 if signed else 2**bits - 1)
