"""What `getac lower` reaches on networks with random weights, beside targets and onnxruntime's own tools.

    python tools/bench_lower.py [--json FILE] [--quick]

All ratios are taken in one process on one thread; latencies are medians of CPU time over the quieter half of
interleaved runs.
"""

from __future__ import annotations

import itertools
import logging
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

if __name__ == "__main__":  # run by path: make `tools` importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.benchmark import Figure, command
from tools.lowered.measuring import Bench, Setting, figures, float_pass_seconds
from tools.lowered.rows import ROWS

__all__ = ["main"]

FULL = Setting(quick=False, samples=32, min_rounds=80, budget_s=12, repeats=5)
QUICK = Setting(quick=True, samples=4, min_rounds=3, budget_s=0.1, repeats=1)


def main(arguments: Sequence[str] | None = None) -> int:
    logging.disable(logging.WARNING)  # onnxruntime's tools open the root logger
    return command(__doc__, lambda quick: measure(QUICK if quick else FULL), arguments)


def measure(setting: Setting, rows: Sequence[str] = tuple(ROWS)) -> dict[str, Any]:
    """The figures of each row, and what lowering the first one takes."""
    found: dict[str, Any] = {"setting": asdict(setting)}
    for name in rows:
        with TemporaryDirectory(prefix="getac-bench-") as folder:
            found[name] = figures(Path(folder), setting, ROWS[name])
    with TemporaryDirectory(prefix="getac-bench-") as folder:
        bench = Bench(Path(folder), setting, ROWS[next(iter(ROWS))])
        bench.write_inputs()
        return {**found, "lower": lowering_figures(bench)}


def lowering_figures(bench: Bench) -> dict[str, Any]:
    """Wall time of `lower` without its own benchmark, against one float pass over the calibration data."""
    passes, lowerings = [], []
    for _ in range(bench.setting.repeats):
        passes.append(float_pass_seconds(bench))
        lowerings.append(step_seconds(bench))
    one_pass = statistics.median(passes)
    seconds = statistics.median(sum(steps.values()) for steps in lowerings)
    return {
        "seconds": Figure(seconds, at_most=20 * one_pass + 5).as_json(),
        "float_pass_seconds": one_pass,
        "float_passes": seconds / one_pass,
        "step_seconds": {
            step: statistics.median(steps[step] for steps in lowerings) for step in lowerings[0]
        },
    }


def step_seconds(bench: Bench) -> dict[str, float]:
    """What each step of one `lower` takes; steps of the same name add up."""
    marks = [("start", time.perf_counter())]
    bench.lower(on_step=lambda name: marks.append((name, time.perf_counter())))
    marks.append(("end", time.perf_counter()))
    seconds: dict[str, float] = defaultdict(float)
    for (name, begin), (_, end) in itertools.pairwise(marks):
        seconds[name] += end - begin
    return dict(seconds)


if __name__ == "__main__":
    sys.exit(main())
