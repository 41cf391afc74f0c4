"""Measures what kernels of onnxruntime take on this machine: the table for `getac lower --cost`.

    python tools/measure_kernels.py [--json FILE] [--runs N] [--quick]

One thread; every number is a median of CPU time over interleaved runs, of n layers less that of one layer.
It takes about two minutes on a quiet machine; where others work, take the medians of several --runs. The
table that ships with getac is that of five.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

if __name__ == "__main__":  # run by path: make `tools` importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from getac.cli.console import print_error
from getac.errors import GetacError
from getac.kernel_costs import CostTable, Kind, Strategy
from getac.kernel_costs.table import Grid, Steps, Transitions
from getac.kernel_costs.writing import as_json
from getac.onnx_graph.write import atomic_write_text, check_output
from getac.plans.plan import versions
from getac.runtime import measure_latency, open_session
from tools.benchmark import machine
from tools.kernel_models import Case, Feed, addition_model, feed, idle_model, layer_model, pair_model

__all__ = ["main", "measure", "medians"]

ENOUGH = 20_000_000  # MACs of all the layers of a model whose difference can be told
MOST = 16  # layers side by side
ATTEMPTS = 3  # at an entry that cannot be right
LEAST_S = 5e-8  # a difference below it is noise
ON_BOTH = (Strategy.FLOAT, Strategy.INTEGER)
ANY = (*ON_BOTH, Strategy.WEIGHT_ONLY_8, Strategy.WEIGHT_ONLY_4)

Name = TypeVar("Name")


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Args:
        channels: Kind -> channels of the grid.
        sides: Kind -> sides of the images; rows of a matrix product.
        steps: Kind -> channels from one multiple of 16 to the next.
        steps_at: Kind -> the side for these.
        budget_s: Wall time per entry, in seconds.
    """

    channels: Mapping[Kind, Sequence[int]]
    sides: Mapping[Kind, Sequence[int]]
    steps: Mapping[Kind, Sequence[int]]
    steps_at: Mapping[Kind, int]
    min_rounds: int
    budget_s: float


def between(aligned: int) -> tuple[int, ...]:
    """Channels from one multiple of 16 to the next: the ends, and some with each power of two as divisor."""
    return tuple(aligned + more for more in (0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 16))


STEPPED = (Kind.CONVOLUTION, Kind.DEPTHWISE, Kind.LINEAR)
WIDE, IMAGE = (16, 64, 256, 1024), (7, 14, 28, 56, 112)
FULL = Setting(
    channels=dict.fromkeys(Kind, WIDE)
    | {Kind.CONVOLUTION: (16, 64, 256), Kind.STEM: (16, 64), Kind.LARGE_STEM: (16, 64)},
    sides=dict.fromkeys(Kind, IMAGE)
    | {Kind.STEM: (28, 112), Kind.LARGE_STEM: (28, 112), Kind.LINEAR: (1, 16, 128)},
    # Linear layers are wide: a step of 16 channels is a small part of them.
    steps={kind: between(240 if kind is Kind.LINEAR else 48) for kind in STEPPED},
    steps_at={Kind.CONVOLUTION: 28, Kind.DEPTHWISE: 28, Kind.LINEAR: 128},
    min_rounds=10,
    budget_s=0.6,
)
QUICK = Setting(
    channels=dict.fromkeys(Kind, (16, 32)),
    sides=dict.fromkeys(Kind, (4, 8)),
    steps=dict.fromkeys(STEPPED, (16, 24, 28, 31, 32)),
    steps_at=dict.fromkeys(STEPPED, 4),
    min_rounds=2,
    budget_s=0.0,
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the table there, not to the terminal"
    )
    parser.add_argument(
        "--runs", type=positive, default=1, metavar="N", help="medians of N tables; default 1"
    )
    parser.add_argument("--quick", action="store_true", help="few entries, badly measured: the form")
    options = parser.parse_args(arguments)
    try:
        write_table(options.json, QUICK if options.quick else FULL, options.runs)
    except GetacError as error:
        print_error(error)
        return error.exit_code
    return 0


def write_table(path: Path | None, setting: Setting, runs: int) -> None:
    """Measures, and writes to a file or the terminal; a file that cannot be written is refused before."""
    if path is not None:
        check_output(path)
    text = as_json(medians([measure(setting) for _ in range(runs)]))
    if path is not None:
        atomic_write_text(path, text)
    else:
        print(text, end="")


def positive(text: str) -> int:
    """A count, for the parser of arguments."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"at least 1, not {text}")
    return int(text)


def measure(setting: Setting) -> CostTable:
    """The whole table, kernel by kernel."""
    found = machine()
    flags = " ".join(flag for flag, present in found["flags"].items() if present)
    return CostTable(
        machine={"cpu": found["cpu"], "flags": flags},
        onnxruntime=versions()["onnxruntime"],
        call=call_seconds(setting),
        node=idle_seconds(setting),
        grids={key: grid for kind in Kind for key, grid in grids(kind, setting).items()},
        steps={key: one for kind in setting.steps_at for key, one in steps(kind, setting).items()},
        transitions={kind: transitions(kind, setting) for kind in (Kind.CONVOLUTION, Kind.LINEAR)},
        additions=additions(setting),
    )


def medians(tables: Sequence[CostTable]) -> CostTable:
    """The table whose entries are the medians of those of several; their machine is one."""

    def median(entry: Callable[[CostTable], float]) -> float:
        return statistics.median(map(entry, tables))

    def grid(key: tuple[Kind, Strategy], like: Grid) -> Grid:
        rows = zip(*(table.grids[key].seconds for table in tables), strict=True)
        seconds = [[statistics.median(cell) for cell in zip(*row, strict=True)] for row in rows]
        return replace(like, seconds=seconds)

    def steps(key: tuple[Kind, Strategy], like: Steps) -> Steps:
        times = zip(*(table.steps[key].seconds for table in tables), strict=True)
        return replace(like, seconds=[statistics.median(one) for one in times])

    def change(kind: Kind) -> Transitions:
        return Transitions(
            median(lambda table: table.transitions[kind].to_integers),
            median(lambda table: table.transitions[kind].to_floats),
        )

    def addition(how: Strategy) -> float:
        return median(lambda table: table.additions[how])

    first = tables[0]
    return replace(
        first,
        call=median(lambda table: table.call),
        node=median(lambda table: table.node),
        grids={key: grid(key, like) for key, like in first.grids.items()},
        steps={key: steps(key, like) for key, like in first.steps.items()},
        transitions={kind: change(kind) for kind in first.transitions},
        additions={how: addition(how) for how in first.additions},
    )


def grids(kind: Kind, setting: Setting) -> dict[tuple[Kind, Strategy], Grid]:
    """The entries of one kind, each at least as long as those of fewer channels or positions."""
    channels, sides = setting.channels[kind], setting.sides[kind]
    cells: dict[tuple[int, int], dict[Strategy, float]] = {}
    for row, count in enumerate(channels):
        for column, side in enumerate(sides):
            less = [cells[at] for at in ((row - 1, column), (row, column - 1)) if at in cells]
            cells[row, column] = growing(Case(kind, count, side), less, setting)
    positions = [Case(kind, channels[0], side).shape.positions for side in sides]

    def grid(how: Strategy) -> Grid:
        rows = [[cells[row, column][how] for column in range(len(sides))] for row in range(len(channels))]
        return Grid(kind, channels, positions, rows)

    return {(kind, how): grid(how) for how in cells[0, 0]}


def growing(case: Case, less: Sequence[Mapping[Strategy, float]], setting: Setting) -> dict[Strategy, float]:
    """The times of a case; measured again where a smaller one took longer, which only noise does."""
    for _ in range(ATTEMPTS):
        times = layer_seconds(case, setting)
        if all(times[how] >= smaller[how] for smaller in less for how in times):
            break
    return {how: max(seconds, *(smaller[how] for smaller in less), 0.0) for how, seconds in times.items()}


def steps(kind: Kind, setting: Setting) -> dict[tuple[Kind, Strategy], Steps]:
    channels, side = setting.steps[kind], setting.steps_at[kind]
    cells = [layer_seconds(Case(kind, count, side), setting, ON_BOTH) for count in channels]
    return {(kind, how): Steps(kind, tuple(channels), [cell[how] for cell in cells]) for how in ON_BOTH}


def layer_seconds(
    case: Case, setting: Setting, strategies: Sequence[Strategy] | None = None
) -> dict[Strategy, float]:
    """The time of one layer, run in each way that its kind can be run."""
    strategies = strategies or (ANY if case.kind is Kind.LINEAR else ON_BOTH)
    tasks = {how: lambda n, how=how: layer_model(case, how, n) for how in strategies}
    return seconds_each(tasks, feed(case), repeats_of(case), setting)


def transitions(kind: Kind, setting: Setting) -> Transitions:
    """Per element: two layers of two types, less the mean of two of floats and two of integers."""
    case = typical(kind, setting)
    pairs = [(first, second) for first in ON_BOTH for second in ON_BOTH]
    tasks = {pair: lambda n, pair=pair: pair_model(case, pair[0], pair[1], n) for pair in pairs}
    times = seconds_each(tasks, feed(case), repeats_of(case), setting)
    floats, integers = ON_BOTH
    within = (times[floats, floats] + times[integers, integers]) / 2
    ways = ((floats, integers), (integers, floats))
    return Transitions(*(max(0.0, times[pair] - within) / case.elements for pair in ways))


def additions(setting: Setting) -> dict[Strategy, float]:
    """Per element: two layers with an addition between them, less two without."""
    case = typical(Kind.POINTWISE, setting)
    tasks = {
        (how, added): lambda n, how=how, added=added: addition_model(case, how, added, n)
        for how in ON_BOTH
        for added in (True, False)
    }
    times = seconds_each(tasks, feed(case), repeats_of(case), setting)
    return {how: max(0.0, times[how, True] - times[how, False]) / case.elements for how in ON_BOTH}


def typical(kind: Kind, setting: Setting) -> Case:
    """What is around transitions and additions: a light layer, so that the difference shows."""
    kind = kind if kind is Kind.LINEAR else Kind.POINTWISE
    return Case(kind, setting.channels[kind][1], setting.sides[kind][-1 if kind is Kind.LINEAR else -2])


def idle_seconds(setting: Setting) -> float:
    return seconds_each({"idle": idle_model}, {"x": np.ones((1, 1), np.float32)}, 2 * MOST, setting)["idle"]


def call_seconds(setting: Setting) -> float:
    """What a run takes around its nodes."""
    session = open_session(idle_model(1))
    inputs = {"x": np.ones((1, 1), np.float32)}
    return (
        1e-3
        * measure_latency(
            {"idle": session}, inputs, min_rounds=setting.min_rounds, budget_s=setting.budget_s
        )["idle"]
    )


def repeats_of(case: Case) -> int:
    """How many layers: few of those that take long."""
    return max(2, min(MOST, 1 + ENOUGH // case.shape.macs))


def seconds_each(
    tasks: Mapping[Name, Callable[[int], bytes]], inputs: Feed, repeats: int, setting: Setting
) -> dict[Name, float]:
    """What one of the repeated parts takes, for each task, all interleaved.

    Args:
        tasks: Name -> the model for a number of repetitions.
    """
    sessions = {
        f"{index} {n}": open_session(model(n))
        for index, model in enumerate(tasks.values())
        for n in (1, repeats)
    }
    times = measure_latency(sessions, inputs, min_rounds=setting.min_rounds, budget_s=setting.budget_s)
    return {
        name: max(LEAST_S, 1e-3 * (times[f"{index} {repeats}"] - times[f"{index} 1"]) / (repeats - 1))
        for index, name in enumerate(tasks)
    }


if __name__ == "__main__":
    sys.exit(main())
