"""The least sparsity whose latency, measured on this machine, is a given part of the original's.

The cost table predicts where to start; every measurement then corrects the prediction, and what is known to
be too much and too little closes in on the answer:

    ratio(s) ~ correction x predicted(s)         correction = measured / predicted of the last try
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

from getac.axes.costs import meter_of
from getac.calibration import CalibrationData
from getac.errors import OptionError
from getac.kernel_costs import CostTable, default_table
from getac.onnx_graph.view import OnnxView
from getac.passes import ChooseUnits, Pipeline, State
from getac.placement import Placement, place
from getac.strategies import Estimate

__all__ = ["Found", "Try", "least_sparsity", "predicted_ratio", "tries_note"]

TRIES = 6
GREATEST = 0.95
CLOSE = 0.02
"""Two sparsities this near to each other are one."""

QUIET = 0.98
"""A measured ratio varies by a percent or two: what counts as within the budget is this much below it."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Try:
    """One measured model: the sparsity that was asked for, and its latency over the original's."""

    sparsity: float
    ratio: float


@dataclass(frozen=True)
class Found(Generic[Result]):
    """The model of least sparsity within the budget, and all that was tried."""

    result: Result
    sparsity: float
    tries: Sequence[Try]


def least_sparsity(
    budget: float,
    attempt: Callable[[float], tuple[Result, float]],
    predict: Callable[[float], float],
    tries: int = TRIES,
) -> Found[Result]:
    """Searches between sparsity 0 and 0.95.

    Args:
        budget: Latency over the original's, in (0, 1).
        attempt: Sparsity -> a model, and its measured ratio.
        predict: Sparsity -> the predicted ratio; falls where the sparsity grows.

    Raises:
        OptionError: No model that was tried is within the budget.
    """
    done: list[Try] = []
    best: tuple[float, Result] | None = None
    too_slow, correction = -CLOSE, 1.0
    while len(done) < tries:
        highest = GREATEST if best is None else best[0]
        if highest - too_slow <= CLOSE:
            break
        sparsity = proposal(budget * QUIET, too_slow, highest, best is not None, predict, correction)
        if best is None and len(done) == tries - 1:
            sparsity = GREATEST  # the last try shows what can be reached at all
        result, ratio = attempt(sparsity)
        done.append(Try(sparsity, ratio))
        correction = ratio / predict(sparsity)
        if ratio <= budget * QUIET:
            best = (sparsity, result)
        else:
            too_slow = sparsity
    if best is None:
        raise unreachable(budget, done)
    return Found(best[1], best[0], done)


def proposal(
    target: float,
    too_slow: float,
    highest: float,
    met: bool,
    predict: Callable[[float], float],
    correction: float,
) -> float:
    """Where the corrected prediction meets the target, if that is well between the bounds; else their middle.

    Args:
        met: Whether the upper bound is known to be within the budget; otherwise it may be tried itself.
    """
    low, high = max(too_slow, 0.0), highest
    if correction * predict(low) <= target:
        high = low
    while high - low > CLOSE / 4:
        middle = (low + high) / 2
        low, high = (low, middle) if correction * predict(middle) <= target else (middle, high)
    least, most = max(0.0, too_slow + CLOSE / 2), highest - CLOSE / 2 if met else highest
    if least <= high <= most:
        return round(high, 3)
    return round(max(0.0, (too_slow + highest) / 2), 3)


def unreachable(budget: float, done: Sequence[Try]) -> OptionError:
    quickest = min(done, key=lambda one: one.ratio)
    return OptionError(
        "no sparsity meets the latency budget",
        required=f"a latency of at most {budget:.3g} of the original's",
        found=f"{quickest.ratio:.3g} at sparsity {quickest.sparsity:.3g}; {listed(done)}",
        hint="calibration data puts layers on integers; getac inspect says which units must stay",
    )


def tries_note(budget: float, done: Sequence[Try], integer: bool) -> str:
    """What the report says of a search."""
    bits = (
        "bits of weights make no difference to integer kernels"
        if integer
        else "calibration data would put layers on integers, for which less sparsity is needed"
    )
    return f"latency budget {budget:.3g}: {listed(done)}; {bits}"


def listed(done: Sequence[Try]) -> str:
    return "tried " + ", ".join(f"sparsity {one.sparsity:.3g}: ratio {one.ratio:.3g}" for one in done)


def predicted_ratio(
    state: State, align: int | None, integer: bool, data: CalibrationData | None
) -> Callable[[float], float]:
    """Sparsity -> predicted latency over that of the floats without removal.

    Args:
        state: After the analysis; its graph stays as it is.
        align: As in `choose-units`.
        integer: Whether layers run on integers.
    """
    analysis, costs = state.analysis, state.costs or default_table()
    assert analysis is not None and isinstance(analysis.view, OnnxView)
    placement = place(state.model.graph, state.quantizers, data is not None) if integer else Placement()
    before = estimate_of(state, costs).total(Placement())

    @cache
    def predict(sparsity: float) -> float:
        Pipeline((ChooseUnits(sparsity, align, integer),)).run(state)
        return estimate_of(state, costs).total(placement) / before

    return predict


def estimate_of(state: State, costs: CostTable) -> Estimate:
    """At the sizes that the choice of units leaves."""
    analysis = state.analysis
    assert analysis is not None and isinstance(analysis.view, OnnxView)
    meter = meter_of(analysis, state.choice.masks if state.choice is not None else {})
    return Estimate(analysis.view, meter.sizes, {}, costs)
