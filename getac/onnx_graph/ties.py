"""Whether numbers come to a quantizer in the middle between two levels, more often than by chance.

Numbers on a lattice may: the mean of four multiples of d is a tie for one sum out of four. Behind layers the
lattice is that of the products, s_x s_w. It has ties of d where s_x s_w / d is a simple fraction with more
twos below than above. Of the inputs of a graph nothing is known; what a layer makes of them, or a smooth
function, is on no lattice.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import onnx_ir as ir

from getac.onnx_graph.branches import Branches
from getac.onnx_graph.edit import array_of, is_stored
from getac.onnx_graph.weight_lattice import weight_lattice
from getac.placement.placement import LAYERS

__all__ = ["may_be_ties"]

Steps = frozenset[float]

ANY: Steps = frozenset({math.inf})
"""The steps of numbers that may be on any lattice."""
NONE: Steps = frozenset()
KEEPS = frozenset(
    (
        *("Abs", "Add", "Clip", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Max"),
        *("MaxPool", "GlobalMaxPool", "Min", "Neg", "Pad", "ReduceMax", "ReduceMin", "ReduceSum", "Relu"),
        *("Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Sub", "Sum", "Tile", "Transpose"),
        "Unsqueeze",
    )
)
AVERAGES = frozenset(("AveragePool", "GlobalAveragePool", "ReduceMean"))
SPREADS = frozenset(
    (
        *("BatchNormalization", "Elu", "Erf", "Exp", "Gelu", "GroupNormalization", "InstanceNormalization"),
        *(
            "LayerNormalization",
            "Log",
            "LogSoftmax",
            "Mish",
            "RMSNormalization",
            "Selu",
            "Sigmoid",
            "Softmax",
        ),
        *("Softplus", "Sqrt", "Tanh"),
    )
)
DEEPEST = 64
MOST_BITS = 16
LARGEST_FACTOR = 16
"""Of how great a number, twos aside, a step may be a fraction."""
MANY = 2.0**-20
"""What a mean makes of a step, at least."""
FLOAT32 = 2.0**-22


def may_be_ties(branches: Branches, x: ir.Value, step: float, unknown: bool) -> bool:
    """Whether a value is on a lattice that has ties of a step.

    Args:
        unknown: What to say where nothing is known of its lattice.
    """
    steps = steps_of(branches, x, DEEPEST)
    return (unknown and steps >= ANY) or any(has_ties(behind / step) for behind in steps - ANY)


def has_ties(ratio: float) -> bool:
    """Whether some multiple of a ratio is an integer and a half: it is a / b, and b has more twos than a."""
    mantissa, exponent = np.frexp(ratio)
    nearest = Fraction(float(mantissa)).limit_denominator(LARGEST_FACTOR)
    twos = int(exponent) + twos_of(nearest.numerator) - twos_of(nearest.denominator)
    return abs(float(nearest) - mantissa) <= FLOAT32 * mantissa and twos < 0


def twos_of(number: int) -> int:
    return (number & -number).bit_length() - 1


def steps_of(branches: Branches, value: ir.Value, depth: int) -> Steps:
    """The steps of the lattices that a value is on; none where it is on none."""
    node = value.producer()
    if branches.is_constant(value):
        return NONE  # it moves a lattice, or stands beside it
    if node is None or node.domain not in ("", "ai.onnx", "com.microsoft") or depth == 0:
        return ANY
    inputs = [one for one in node.inputs if one is not None]
    if node.op_type in SPREADS:
        return NONE
    if node.op_type in KEEPS:
        return frozenset().union(*(steps_of(branches, one, depth - 1) for one in inputs))
    if node.op_type in AVERAGES:
        return frozenset(step * MANY for step in steps_of(branches, inputs[0], depth - 1))
    if node.op_type == "DequantizeLinear" and is_stored(inputs[1]):
        return frozenset(array_of(inputs[1]).astype(np.float64).flat)
    if node.op_type in LAYERS and len(inputs) > 1:
        return products(branches, inputs[0], inputs[1], depth - 1)
    return ANY


def products(branches: Branches, x: ir.Value, weight: ir.Value, depth: int) -> Steps:
    """The steps of the products of two values; none where one of them is on no lattice that is known."""
    steps = weight_steps(branches, weight) if branches.is_constant(weight) else None
    of_weight = steps_of(branches, weight, depth) if steps is None else steps
    of_x = steps_of(branches, x, depth) if of_weight else NONE
    return frozenset(one * other for one in of_x for other in of_weight if one * other < math.inf)


def weight_steps(branches: Branches, weight: ir.Value) -> Steps:
    array = array_of(weight) if is_stored(weight) else branches.result(weight)
    record = weight_lattice(array, MOST_BITS) if array.dtype == np.float32 else None
    return NONE if record is None else frozenset(record.step.astype(np.float64).flat)
