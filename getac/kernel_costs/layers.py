"""The shape of a layer in either graph, for the cost table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from getac.axes.meter import SizesOf
from getac.kernel_costs.shape import LayerShape
from getac.rules.contraction import Convolution, Gemm, Linear, MatMul
from getac.view import NodeView

__all__ = ["shape_of"]


def shape_of(node: NodeView, sizes: SizesOf) -> LayerShape | None:
    """The shape of a node that multiplies; None for others, and where sizes are unknown.

    A product of two activations counts as a matrix product with as many rows as its result has.
    """
    if not isinstance(node.rule, Convolution | Gemm | Linear | MatMul):
        return None
    values = [*node.inputs[:2], node.outputs[0]]
    known = [sizes(value) if value is not None else None for value in values]
    if any(size is None or len(size) < 2 or 0 in size for size in known):
        return None
    x, weight, y = (size for size in known if size is not None)
    if isinstance(node.rule, Convolution):
        return convolution_shape(node.rule, x, weight, y)
    into = x[0] if isinstance(node.rule, Gemm) and node.rule.transpose_a else x[-1]
    return LayerShape(into, y[-1], math.prod(y[:-1]))


def convolution_shape(
    rule: Convolution, x: Sequence[int], weight: Sequence[int], y: Sequence[int]
) -> LayerShape:
    """Where the window stands: at every output position; transposed, at every input position."""
    batch, _, *positions = x if rule.transposed else y
    return LayerShape(x[1], y[1], batch * math.prod(positions), math.prod(weight[2:]), rule.groups)
