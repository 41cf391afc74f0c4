"""Tries the law of slicing on many random graphs: `python -m tools.fuzz_graphs --count 2000 --start 0`.

What exceeds the bound in float32 is computed once more in float64: rounding vanishes there, a bug does not.
"""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Callable, Iterable

import numpy as np
import onnx

from tools.double_precision import DOUBLE_TOLERANCE, opened_in_double
from tools.law import Evaluate, Outcome, check_dead, check_law
from tools.random_graphs import random_graph

TOLERANCE = 1e-4

Check = Callable[[onnx.ModelProto, int, Evaluate | None], Outcome]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--steps", type=int, default=None, help="steps per graph; 5 to 40 at random if absent"
    )
    parser.add_argument("--double", action="store_true", help="compute all in float64")
    parser.add_argument("--dead", action="store_true", help="remove what is dead instead; see tools.law")
    options = parser.parse_args()
    check = check_dead if options.dead else check_law
    seeds = range(options.start, options.start + options.count)
    return fuzz(check, seeds, options.steps, double=options.double)


def fuzz(check: Check, seeds: Iterable[int], steps: int | None = None, *, double: bool = False) -> int:
    """Prints every seed that breaks the law, then what share of units was open; returns the failures."""
    outcomes: list[Outcome] = []
    tolerance, evaluate = (DOUBLE_TOLERANCE, opened_in_double) if double else (TOLERANCE, None)
    failures = 0
    for seed in seeds:
        try:
            outcome = check(random_graph(seed, steps), seed, evaluate)
        except Exception:  # every crash is a finding; the next seed goes on
            failures += 1
            print(f"seed {seed}: {traceback.format_exc(limit=-3)}", flush=True)
            continue
        outcomes.append(outcome)
        if not outcome.difference <= tolerance:
            exact = outcome if double else check(random_graph(seed, steps), seed, opened_in_double)
            rounding = exact.difference <= DOUBLE_TOLERANCE
            failures += not rounding
            verdict = "rounding" if rounding else "a failure"
            print(f"seed {seed}: {verdict}, {exact.difference:.1e} in float64: {outcome}", flush=True)
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
