"""What removing one unit of each class saves: multiply-accumulates, bit operations, or predicted seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from getac.axes.axis import Axis, Mask
from getac.axes.costs import costs_of, meter_of
from getac.fx_graph.view import FxView
from getac.kernel_costs import CostTable, Strategy, default_table
from getac.kernel_costs.layers import shape_of
from getac.qasso.metrics import lattice_of
from getac.qasso.units import UnitTable

__all__ = ["COSTS", "UnitCosts", "bops_of", "latency_of", "macs_of"]

UnitCosts = Mapping[str, float]
"""Name of a class -> what one of its units saves, in any unit of measure."""


def macs_of(table: UnitTable) -> UnitCosts:
    """Multiply-accumulates per sample."""
    costs = table.analysis.costs.classes
    return {one.name: float(costs[one.name].macs) for one in table.classes}


def bops_of(table: UnitTable) -> UnitCosts:
    """MACs x bits x bits, at the most bits that quantizers are allowed by now; floats have 32."""
    quantizers = view_of(table).quantizers
    records = {value: lattice_of(one, round(one.bits.most)) for value, one in quantizers.items()}
    costs = costs_of(replace(table.analysis, quantizers=records)).classes
    return {one.name: float(costs[one.name].bops) for one in table.classes}


def latency_of(table: UnitTable, costs: CostTable | None = None) -> UnitCosts:
    """Seconds per sample that a table of measured kernels predicts: the mean over the first half of a class.

    Of a single unit it would say little: kernels take their time in steps of several channels.

    Args:
        costs: None: the table that ships with getac.
    """
    costs = costs or default_table()
    found: dict[str, float] = {}
    whole = seconds_of(table, {}, costs)
    for one in table.classes:
        stays = np.arange(one.size) >= one.size // 2
        saved = whole - seconds_of(table, {one.atom: stays}, costs)
        found[one.name] = max(saved, 0.0) / max(one.size // 2, 1)
    return found


def seconds_of(table: UnitTable, masks: Mapping[Axis, Mask], costs: CostTable) -> float:
    """What all layers take that multiply."""
    sizes, quantized = meter_of(table.analysis, masks).sizes, view_of(table).quantizers
    total = 0.0
    for node in table.analysis.view.nodes:
        shape = shape_of(node, sizes)
        if shape is not None:
            strategy = Strategy.INTEGER if node.inputs[1] in quantized else Strategy.FLOAT
            total += costs.seconds(shape, strategy if costs.has(shape.kind, strategy) else Strategy.FLOAT)
    return total


def view_of(table: UnitTable) -> FxView:
    view = table.analysis.view
    assert isinstance(view, FxView)
    return view


COSTS: Mapping[str, Callable[[UnitTable], UnitCosts]] = {
    "macs": macs_of,
    "bops": bops_of,
    "latency": latency_of,
}
