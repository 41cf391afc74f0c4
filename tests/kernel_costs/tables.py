"""Cost tables that no machine has: the default one with some kernels made slower or faster."""

from __future__ import annotations

from dataclasses import replace

from getac.kernel_costs import CostTable, Kind, Strategy, default_table
from getac.kernel_costs.table import Grid, Transitions


def with_factor(table: CostTable, kind: Kind, strategy: Strategy, factor: float) -> CostTable:
    """All entries of a kernel, times a factor."""
    grid = table.grids[kind, strategy]
    seconds = [[factor * one for one in row] for row in grid.seconds]
    changed = Grid(kind, grid.channels, grid.positions, seconds)
    return replace(table, grids={**table.grids, (kind, strategy): changed})


def with_transitions(table: CostTable, to_integers: float, to_floats: float) -> CostTable:
    """Other seconds per element."""
    return replace(table, transitions=dict.fromkeys(table.transitions, Transitions(to_integers, to_floats)))


def slow_integers(kind: Kind, factor: float = 1e6, transitions: float = 0.0) -> CostTable:
    """A table by which a kind of layer had better run in floats, whatever its size."""
    table = with_factor(default_table(), kind, Strategy.INTEGER, factor)
    return with_transitions(table, transitions, transitions)
