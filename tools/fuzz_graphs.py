"""Tries the law of slicing on many random graphs: `python -m tools.fuzz_graphs --count 2000 --start 0`."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Callable, Iterable

import numpy as np
import onnx

from tools.law import Outcome, check_dead, check_law
from tools.random_graphs import random_graph

TOLERANCE = 1e-4

Check = Callable[[onnx.ModelProto, int], Outcome]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--steps", type=int, default=None, help="steps per graph; 5 to 40 at random if absent"
    )
    parser.add_argument("--dead", action="store_true", help="remove what is dead instead; see tools.law")
    options = parser.parse_args()
    check = check_dead if options.dead else check_law
    return fuzz(check, range(options.start, options.start + options.count), options.steps)


def fuzz(check: Check, seeds: Iterable[int], steps: int | None = None) -> int:
    """Prints every seed that breaks the law, then what share of units was open; returns the failures."""
    outcomes: list[Outcome] = []
    failures = 0
    for seed in seeds:
        try:
            outcome = check(random_graph(seed, steps), seed)
        except Exception:  # every crash is a finding; the next seed goes on
            failures += 1
            print(f"seed {seed}: {traceback.format_exc(limit=-3)}", flush=True)
            continue
        outcomes.append(outcome)
        if not outcome.difference <= TOLERANCE:
            failures += 1
            print(f"seed {seed}: {outcome}", flush=True)
    print(summary(outcomes, failures))
    return failures


def summary(outcomes: list[Outcome], failures: int) -> str:
    pruned = [one for one in outcomes if one.removed]
    cut = np.mean([one.stored for one in pruned]) if pruned else 0.0
    worst = max((one.difference for one in outcomes), default=0.0)
    return (
        f"{len(outcomes)} graphs, {failures} failures, worst difference {worst:.1e}; "
        f"{len(pruned)} lost units, {cut:.0%} of their float parameters on average"
    )


if __name__ == "__main__":
    raise SystemExit(min(main(), 1))
