"""What a unit of each pruning class costs in seconds, by the cost table: for choices that weigh time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from getac.axes.analysis import Analysis, PruningClass
from getac.axes.axis import Axis, Mask
from getac.axes.costs import meter_of, nodes_by_class
from getac.axes.meter import SizesOf
from getac.kernel_costs import CostTable, Strategy, default_table
from getac.kernel_costs.layers import shape_of
from getac.view import NodeView

__all__ = ["seconds_per_unit"]


def seconds_per_unit(
    analysis: Analysis, table: CostTable | None = None, integer: bool = True
) -> Mapping[str, float]:
    """Class name -> predicted seconds that removing one of its units saves, for one sample.

    The mean over half of the class: kernels take time in steps of several channels, and one unit alone would
    save nothing or a whole step.

        (T(all units) - T(half of them)) / number removed        T: the layers that the class runs through

    Args:
        analysis: Of an ONNX model or a PyTorch module; counted before it is sliced.
        table: None: the table that ships with getac.
        integer: Whether layers run on integers.
    """
    costs = table or default_table()
    touching, whole = nodes_by_class(analysis), meter_of(analysis).sizes
    found = {}
    for one in analysis.classes:
        nodes = touching.get(one.atom, [])
        mask = half_of(one)
        fewer = meter_of(analysis, mask).sizes
        saved = seconds_of(nodes, whole, costs, integer) - seconds_of(nodes, fewer, costs, integer)
        found[one.name] = max(0.0, saved) / int((~mask[one.atom]).sum())
    return found


def seconds_of(nodes: Iterable[NodeView], sizes: SizesOf, costs: CostTable, integer: bool) -> float:
    """Layers that multiply by stored weights and by activations alike; what has no shape counts nothing."""
    strategy = Strategy.INTEGER if integer else Strategy.FLOAT
    shapes = (shape_of(node, sizes) for node in nodes)
    return sum(costs.seconds(shape, strategy) for shape in shapes if shape is not None)


def half_of(one: PruningClass) -> dict[Axis, Mask]:
    """The masks that keep the first half of a class, at least one unit; a multiple of 16 where it has any."""
    kept = max(1, one.size // 2)
    mask = np.zeros(one.size, dtype=np.bool_)
    mask[: kept - kept % 16 if kept > 16 else kept] = True
    return {one.atom: mask}
