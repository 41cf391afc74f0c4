"""The cost table as a file, JSON of a few kilobytes:

    {"format": "getac kernel costs", "version": 1,
     "machine": {"cpu": "...", "flags": "avx2 avx512f ..."}, "onnxruntime": "1.31.1",
     "call": 5.1, "node": 0.5,           what a run takes around its nodes, and any operator at least
     "grids": [{"kind": "convolution", "strategy": "integer", "channels": [16, 64], "positions": [49, 784],
                "microseconds": [[2.5, 12.0], [6.3, 63.1]]}, ...],           one row per channel count
     "steps": [{"kind": "convolution", "strategy": "integer", "channels": [48, 49, 52, 64],
                "microseconds": [38.4, 76.5, 52.6, 66.8]}, ...],        at one number of positions
     "transitions": {"convolution": {"to_integers": 0.25, "to_floats": 0.3}, "linear": {...}},
     "additions": {"integer": 0.1, "float": 0.02}}

Times of layers and operators are in microseconds of CPU time, those of transitions and additions in
nanoseconds per element. `tools/measure_kernels.py` writes it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from getac.errors import BadInputError
from getac.kernel_costs.shape import COARSEST, Kind, Strategy
from getac.kernel_costs.table import CostTable, Grid, Steps, Transitions

__all__ = ["FORMAT", "MICRO", "NANO", "VERSION", "default_table", "parse_table", "read_table"]

FORMAT, VERSION = "getac kernel costs", 1
MICRO, NANO = 1e-6, 1e-9
AROUND = (Kind.CONVOLUTION, Kind.LINEAR)  # what transitions are measured around
ON_BOTH = (Strategy.FLOAT, Strategy.INTEGER)
ONLY_LINEAR = (Strategy.WEIGHT_ONLY_8, Strategy.WEIGHT_ONLY_4)
GRIDS = (*((kind, how) for kind in Kind for how in ON_BOTH), *((Kind.LINEAR, how) for how in ONLY_LINEAR))
STEPS = tuple((kind, how) for kind in (Kind.CONVOLUTION, Kind.DEPTHWISE, Kind.LINEAR) for how in ON_BOTH)

Named = TypeVar("Named", Kind, Strategy)


@cache
def default_table() -> CostTable:
    """The table that ships with getac; `machine` says where it was measured."""
    return parse_table(files(__package__).joinpath("default.json").read_text(), "the default table")


def read_table(path: str | os.PathLike[str]) -> CostTable:
    """Reads a table that `tools/measure_kernels.py` wrote.

    Raises:
        BadInputError: It cannot be read, is none, or has entries that no measurement gives.
    """
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError("the cost table cannot be read", where=str(path), found=str(error)) from error
    return parse_table(text, str(path))


def parse_table(text: str, where: str) -> CostTable:
    """The table that a file holds; `where` names the file in errors."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise bad(where, "JSON", str(error)) from error
    try:
        return table_of(content)
    except Malformed as error:
        raise bad(where, error.required, error.found) from error


class Malformed(Exception):
    """Something in a file is not as it must be."""

    def __init__(self, required: str, found: object) -> None:
        super().__init__(required, found)
        self.required, self.found = required, repr(found)[:200]


def bad(where: str, required: str, found: str) -> BadInputError:
    return BadInputError(
        "this is no cost table",
        where=where,
        required=required,
        found=found,
        hint="python tools/measure_kernels.py --json FILE measures one",
    )


def table_of(content: Any) -> CostTable:
    content = typed(content, dict, "an object")
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise Malformed(
            f'"format": "{FORMAT}", "version": {VERSION}', [content.get("format"), content.get("version")]
        )
    machine = typed(content.get("machine"), dict, "machine: an object of texts")
    grids = {(one.kind, how): one for how, one in map(read_grid, entries(content, "grids"))}
    steps = {(one.kind, how): one for how, one in map(read_steps, entries(content, "steps"))}
    complete("grids", grids, GRIDS)
    complete("steps", steps, STEPS)
    transitions = typed(content.get("transitions"), dict, "transitions: an object")
    additions = typed(content.get("additions"), dict, "additions: an object")
    return CostTable(
        machine={str(key): str(value) for key, value in machine.items()},
        onnxruntime=typed(content.get("onnxruntime"), str, "onnxruntime: its version"),
        call=time_of(content.get("call"), "call") * MICRO,
        node=time_of(content.get("node"), "node") * MICRO,
        grids=grids,
        steps=steps,
        transitions={kind: read_transitions(transitions, kind) for kind in AROUND},
        additions={how: time_of(additions.get(how.value), "additions", zero=True) * NANO for how in ON_BOTH},
    )


def read_grid(entry: Mapping[str, Any]) -> tuple[Strategy, Grid]:
    kind, strategy = named(entry, "kind", Kind), named(entry, "strategy", Strategy)
    channels, positions = ascending(entry, "channels"), ascending(entry, "positions")
    rows = typed(entry.get("microseconds"), list, "microseconds: a list of lists")
    required = f"microseconds: {len(channels)} lists of {len(positions)}"
    table = [typed(row, list, required) for row in rows]
    if [len(row) for row in table] != [len(positions)] * len(channels):
        raise Malformed(required, rows)
    seconds = tuple(tuple(time_of(one, "microseconds") * MICRO for one in row) for row in table)
    return strategy, Grid(kind, channels, positions, seconds)


def read_steps(entry: Mapping[str, Any]) -> tuple[Strategy, Steps]:
    kind, strategy = named(entry, "kind", Kind), named(entry, "strategy", Strategy)
    channels = ascending(entry, "channels")
    times = typed(entry.get("microseconds"), list, "microseconds: a list")
    if len(times) != len(channels) or channels[-1] % COARSEST or channels[0] != channels[-1] - COARSEST:
        raise Malformed(
            f"steps: a time for each number of channels, from one multiple of {COARSEST} to the next",
            entry,
        )
    return strategy, Steps(kind, channels, tuple(time_of(one, "microseconds") * MICRO for one in times))


def read_transitions(content: Mapping[str, Any], kind: Kind) -> Transitions:
    entry = typed(content.get(kind.value), dict, f"transitions: {kind.value}: an object")
    return Transitions(
        *(time_of(entry.get(key), key, zero=True) * NANO for key in ("to_integers", "to_floats"))
    )


def entries(content: Mapping[str, Any], key: str) -> Iterable[Mapping[str, Any]]:
    return [
        typed(one, dict, f"{key}: a list of objects")
        for one in typed(content.get(key), list, f"{key}: a list of objects")
    ]


def complete(key: str, found: Mapping[tuple[Kind, Strategy], object], wanted: Iterable[Any]) -> None:
    missing = [kernel for kernel in wanted if kernel not in found]
    if missing:
        raise Malformed(
            f"{key} for every kernel",
            "none for " + ", ".join(f"{kind.value} {how.value}" for kind, how in missing),
        )


def named(entry: Mapping[str, Any], key: str, kind: type[Named]) -> Named:
    for one in kind:
        if entry.get(key) == one.value:
            return one
    raise Malformed(f"{key}: " + " or ".join(one.value for one in kind), entry.get(key))


def ascending(entry: Mapping[str, Any], key: str) -> tuple[int, ...]:
    numbers = typed(entry.get(key), list, f"{key}: ascending whole numbers")
    whole = [isinstance(one, int) and not isinstance(one, bool) and one > 0 for one in numbers]
    if not numbers or not all(whole) or sorted(set(numbers)) != numbers:
        raise Malformed(f"{key}: ascending whole numbers", numbers)
    return tuple(numbers)


def time_of(value: Any, key: str, zero: bool = False) -> float:
    """A positive number; some may be too small to be measured, and are zero."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise Malformed(f"{key}: positive numbers", value)
    return float(value)


def typed(value: Any, kind: type, required: str) -> Any:
    if not isinstance(value, kind):
        raise Malformed(required, value)
    return value
