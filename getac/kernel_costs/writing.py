"""Writes a cost table, in the form that `getac.kernel_costs.reading` explains."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from getac.kernel_costs.reading import FORMAT, MICRO, NANO, VERSION
from getac.kernel_costs.shape import Kind, Strategy
from getac.kernel_costs.table import CostTable

__all__ = ["as_json"]


def as_json(table: CostTable) -> str:
    """What a file holds; `parse_table` gives the same table again, but for the last digits."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "machine": dict(table.machine),
        "onnxruntime": table.onnxruntime,
        "call": digits(table.call / MICRO),
        "node": digits(table.node / MICRO),
        "grids": [
            {
                **kernel_entry(*kernel),
                "channels": list(grid.channels),
                "positions": list(grid.positions),
                "microseconds": [[digits(one / MICRO) for one in row] for row in grid.seconds],
            }
            for kernel, grid in table.grids.items()
        ],
        "steps": [
            {
                **kernel_entry(*kernel),
                "channels": list(steps.channels),
                "microseconds": [digits(one / MICRO) for one in steps.seconds],
            }
            for kernel, steps in table.steps.items()
        ],
        "transitions": {
            kind.value: {
                "to_integers": digits(one.to_integers / NANO),
                "to_floats": digits(one.to_floats / NANO),
            }
            for kind, one in table.transitions.items()
        },
        "additions": {how.value: digits(one / NANO) for how, one in table.additions.items()},
    }
    return one_line_per_kernel(content)


def one_line_per_kernel(content: Mapping[str, Any]) -> str:
    """JSON that a person can compare: short lists stay on their line."""
    parts = []
    for key, value in content.items():
        if isinstance(value, list):
            lines = ",\n  ".join(json.dumps(one) for one in value)
            parts.append(f" {json.dumps(key)}: [\n  {lines}\n ]")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def kernel_entry(kind: Kind, strategy: Strategy) -> dict[str, str]:
    return {"kind": kind.value, "strategy": strategy.value}


def digits(number: float) -> float:
    """Four digits: no more of a measured time is real."""
    return float(f"{number:.4g}")
