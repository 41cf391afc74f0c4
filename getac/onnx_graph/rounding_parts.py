"""The operators around a rounding, as functions of one number.

A Cast of numbers that its integers do not hold is undefined in ONNX. Where a function casts to 32 bits or
more, it counts as far as its casts are defined, and as constant from there on: round(x / d), cast, clip.
Narrower types wrap around for numbers that occur, and count as onnxruntime computes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from getac.onnx_graph.branches import Branches
from getac.onnx_graph.held import OUTLIERS
from getac.onnx_graph.staircase import GRID

__all__ = ["RoundingPart", "rounding_parts"]

Floats = npt.NDArray[np.float32]

FARTHEST = 16
WIDE = {
    ir.DataType.INT32: (-(2.0**31), 2.0**31),
    ir.DataType.INT64: (-(2.0**63), 2.0**63),
    ir.DataType.UINT32: (0.0, 2.0**32),
    ir.DataType.UINT64: (0.0, 2.0**64),
}


@dataclass(frozen=True)
class RoundingPart:
    """Some of a graph's operators: y as a function of x.

    Args:
        reach: The greatest |x| for which all casts are defined.
    """

    branches: Branches
    x: ir.Value
    y: ir.Value
    reach: float = np.inf

    def __call__(self, points: Floats) -> Floats:
        within = points.clip(-self.reach, self.reach).astype(np.float32)
        return self.branches.on(self.x, within, [self.y])[0]

    def numbers(self) -> list[float]:
        """What it computes with: its steps and thresholds."""
        return self.branches.numbers(self.x, self.y)


def rounding_parts(branches: Branches, node: ir.Node) -> Iterator[tuple[RoundingPart, Floats]]:
    """The parts around a rounding, the largest first, and what they give on `GRID`."""
    for x in reversed(list(branches.sources(node, FARTHEST))):
        later = branches.later(node, branches.region(x))
        reach = reach_of(branches, x, later)
        results = branches.on(x, GRID.clip(-reach, reach).astype(np.float32), later) if later else []
        for y, on_grid in reversed(list(zip(later, results, strict=True))):
            yield RoundingPart(branches, x, y, reach), on_grid


def reach_of(branches: Branches, x: ir.Value, values: Sequence[ir.Value]) -> float:
    """How far from zero all casts on the way from x to values are defined."""
    limits: dict[ir.Value, tuple[float, float]] = {}
    for node in branches.behind(values, {x}):
        value, to = node.inputs[0] if node.inputs else None, node.attributes.get_int("to", 0)
        if node.op_type == "Cast" and to in WIDE and value is not None and not branches.is_constant(value):
            least, greatest = limits.get(value, WIDE[ir.DataType(to)])
            limits[value] = max(least, WIDE[ir.DataType(to)][0]), min(greatest, WIDE[ir.DataType(to)][1])
    read = [value for value in limits if value is not x]
    if not read:
        return np.inf
    points = np.concatenate([GRID, OUTLIERS])
    defined = np.ones(points.shape, bool)
    for value, array in zip(read, branches.on(x, points, read), strict=True):
        least, greatest = limits[value]
        defined &= (array >= least) & (array < greatest)
    beyond = np.abs(points[~defined])
    inside = np.abs(points)[np.abs(points) < beyond.min(initial=np.inf)]
    return float(inside.max(initial=0.0)) if beyond.size else np.inf
