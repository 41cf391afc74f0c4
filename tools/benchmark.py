"""What the benchmarks share: figures and their targets, interleaved CPU times, the command line."""

from __future__ import annotations

import argparse
import gc
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from getac.plans.plan import versions

__all__ = ["Figure", "command", "cpu_seconds", "interleaved", "median", "rounded", "spread"]

CPU_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8")


@dataclass(frozen=True)
class Figure:
    """One measured number and the bound it is held to."""

    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def passed(self) -> bool:
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return low <= self.value <= high

    def as_json(self) -> dict[str, Any]:
        bounds = {key: bound for key, bound in asdict(self).items() if bound is not None}
        return {**bounds, "passed": self.passed}


def command(
    description: str | None,
    measure: Callable[[bool], Mapping[str, Any]],
    arguments: Sequence[str] | None = None,
) -> int:
    """Prints the figures as JSON; 0 if all targets are met, else 1.

    With --quick no figure is judged: targets are for the full size.

    Args:
        measure: Takes whether to be quick; returns parts, some of whose entries are figures as JSON.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON there as well")
    parser.add_argument("--quick", action="store_true", help="tiny networks: the form, no judgement")
    options = parser.parse_args(arguments)
    parts = measure(options.quick)
    if options.quick:
        parts = unjudged(parts)
    content = {
        "passed": None if options.quick else all(passed(part) for part in parts.values()),
        **parts,
        "machine": machine(),
        "versions": dict(versions()),
    }
    text = json.dumps(rounded(content), indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 0 if options.quick or content["passed"] else 1


def unjudged(part: Any) -> Any:
    """The same without a judgement: `passed` is null."""
    if not isinstance(part, Mapping):
        return part
    return {key: None if key == "passed" else unjudged(value) for key, value in part.items()}


def passed(part: Any) -> bool:
    """Whether all figures in a part meet their targets."""
    if not isinstance(part, dict):
        return True
    if isinstance(part.get("passed"), bool):
        return bool(part["passed"])
    return all(passed(value) for value in part.values())


def rounded(content: Any) -> Any:
    """To four digits: no more of a measured time is real."""
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    return float(f"{content:.4g}") if isinstance(content, float) else content


def interleaved(tasks: Mapping[Any, Callable[[], Any]], rounds: int) -> dict[Any, list[float]]:
    """CPU seconds of each task, one run of each per round; a first round warms up and is not counted."""
    times: dict[Any, list[float]] = {name: [] for name in tasks}
    for round_ in range(rounds + 1):
        for name, task in tasks.items():
            seconds = cpu_seconds(task)
            if round_:
                times[name].append(seconds)
    return times


def cpu_seconds(task: Callable[[], Any]) -> float:
    """CPU time of one run.

    The garbage collector runs, but over what the task itself made: else each task would pay for the size of
    the whole process.
    """
    gc.collect()
    gc.freeze()
    start = time.process_time()
    task()
    return time.process_time() - start


def median(series: Sequence[float]) -> float:
    return statistics.median(series)


def spread(series: Sequence[float], unit: float = 1e3) -> dict[str, float]:
    """The first and the third quartile, in milliseconds unless told otherwise."""
    first, _, third = statistics.quantiles(series, n=4, method="inclusive")
    return {"from": first * unit, "to": third * unit}


def machine() -> dict[str, Any]:
    """The processor, and which of the instructions that matter it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    info = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    present = info.get("flags", "").split()
    return {
        "cpu": info.get("model name", platform.processor()),
        "platform": platform.platform(),
        "flags": {flag: flag in present for flag in CPU_FLAGS},
    }
