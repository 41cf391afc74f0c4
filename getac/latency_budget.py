"""The least sparsity whose latency, measured on this machine, is a given part of the original's.

Where only weights become integers and nobody said of how many bits, fewer bits come first: kernels that
unpack weights as they run read less then (with a batch of one row, 4 bits take about 2/3 of the time of 8).

The cost table predicts where to start; measurements then correct the prediction, and what is known to be too
much and too little closes in on the answer:

    ratio(s) ~ a + b x predicted(s)          the line through the last two measurements
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

from getac.axes.costs import meter_of
from getac.data.calibration import CalibrationData
from getac.errors import OptionError
from getac.kernel_costs import CostTable, default_table
from getac.onnx_graph.view import OnnxView
from getac.passes import ChooseUnits, Pipeline, State
from getac.placement.placement import Placement, place
from getac.placement.strategies import Estimate
from getac.report import Latency

__all__ = [
    "WEIGHT_BITS",
    "Found",
    "Try",
    "excess_note",
    "least_change",
    "least_sparsity",
    "predicted_ratio",
    "tries_note",
]

TRIES = 6
GREATEST = 0.95
CLOSE = 0.02
"""Two sparsities this near to each other are one."""

QUIET = 0.97
"""A measured ratio varies by a percent or two: what counts as within the budget is this much below it.

Likewise fewer bits are quicker only if they are by this much.
"""

NEAR = 0.96
"""A ratio within the budget that is this near to it ends the search."""

WEIGHT_BITS = (8, 4)
"""What is tried without calibration data, in this order: there are kernels for these two alone."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Try:
    """One measured model: the sparsity that was asked for, and its latency over the original's.

    Args:
        weight_bits: The bits of its weights, where they are searched as well.
    """

    sparsity: float
    ratio: float
    weight_bits: int | None = None

    def __str__(self) -> str:
        bits = f" with {self.weight_bits}-bit weights" if self.weight_bits else ""
        return f"sparsity {self.sparsity:.3g}{bits}: ratio {self.ratio:.3g}"


@dataclass(frozen=True)
class Found(Generic[Result]):
    """The model of least sparsity within the budget, and all that was tried."""

    result: Result
    sparsity: float
    tries: Sequence[Try]
    weight_bits: int | None = None


def least_change(
    budget: float,
    attempt: Callable[[float, int], tuple[Result, float]],
    predict: Callable[[float], float],
    weight_bits: Sequence[int] = WEIGHT_BITS,
) -> Found[Result]:
    """Fewer bits before fewer units: the first bits within the budget, or else the quickest ones, pruned.

    Args:
        budget: Latency over the original's, in (0, 1).
        attempt: Sparsity, bits of weights -> a model, and its measured ratio.
        predict: Sparsity -> the predicted ratio; falls where the sparsity grows.
        weight_bits: What to try, most bits first.

    Raises:
        OptionError: No model that was tried is within the budget.
    """
    done: list[Try] = []
    for bits in weight_bits:
        result, ratio = attempt(0.0, bits)
        done.append(Try(0.0, ratio, bits))
        if ratio <= budget * QUIET:
            return Found(result, 0.0, done, bits)
    bits, least = weight_bits[0], done[0].ratio
    for one, count in zip(done, weight_bits, strict=True):
        if one.ratio < least * QUIET:
            bits, least = count, one.ratio
    return least_sparsity(budget, lambda sparsity: attempt(sparsity, bits), predict, known=done, bits=bits)


def least_sparsity(
    budget: float,
    attempt: Callable[[float], tuple[Result, float]],
    predict: Callable[[float], float],
    *,
    known: Sequence[Try] = (),
    bits: int | None = None,
    integer: bool = False,
) -> Found[Result]:
    """Searches between sparsity 0 and 0.95.

    Args:
        budget: Latency over the original's, in (0, 1).
        attempt: Sparsity -> a model, and its measured ratio.
        predict: Sparsity -> the predicted ratio; falls where the sparsity grows.
        known: What was tried already, with any bits; none is within the budget.
        bits: The bits of weights that models are tried with, where they were searched.
        integer: Whether layers run on integers.

    Raises:
        OptionError: No model that was tried is within the budget.
    """
    target = budget * QUIET
    done = list(known)
    best: tuple[float, Result] | None = None
    while len(done) < TRIES:
        last = best is None and len(done) == TRIES - 1  # which shows what can be reached at all
        alike = [one for one in done if one.weight_bits == bits]
        sparsity = GREATEST if last else proposal(target, alike, predict)
        if sparsity is None:
            break
        result, ratio = attempt(sparsity)
        done.append(Try(sparsity, ratio, bits))
        if ratio <= target:
            best = (sparsity, result)
            if ratio >= NEAR * target:
                break
    if best is None:
        raise unreachable(budget, done, integer)
    return Found(best[1], best[0], done, bits)


def proposal(target: float, done: Sequence[Try], predict: Callable[[float], float]) -> float | None:
    """The next sparsity: by the line, or in the middle of what is open; None if nothing is open."""
    too_slow = max((one.sparsity for one in done if one.ratio > target), default=-CLOSE)
    enough = min((one.sparsity for one in done if one.ratio <= target), default=None)
    highest = GREATEST if enough is None else enough
    if highest - too_slow <= CLOSE:
        return None
    least = max(0.0, too_slow + CLOSE / 2)
    most = highest if enough is None else highest - CLOSE / 2
    stuck = len(done) > 2 and len({one.ratio > target for one in done[-2:]}) == 1  # two misses on one side
    wanted = line_through(done, predict)
    guess = (max(0.0, too_slow) + highest) / 2 if stuck else first_within(target, wanted, least, most)
    return round(min(max(guess, least), most), 3)


def line_through(done: Sequence[Try], predict: Callable[[float], float]) -> Callable[[float], float]:
    """Sparsity -> the ratio to be expected: predictions on a line through the last two measurements.

    Through the origin where there is one measurement, or where the two say nothing.
    """
    if not done:
        return predict
    first, second = done[-2:] if len(done) > 1 else (Try(1.0, 0.0), done[-1])
    x, y = (predict(first.sparsity) if len(done) > 1 else 0.0), first.ratio
    run, rise = predict(second.sparsity) - x, second.ratio - y
    if run * rise <= 0:
        x, y, run, rise = 0.0, 0.0, predict(second.sparsity), second.ratio
    return lambda sparsity: y + rise / run * (predict(sparsity) - x)


def first_within(target: float, ratio: Callable[[float], float], low: float, high: float) -> float:
    """The least sparsity whose ratio is within the target, by bisection; `high` if there is none."""
    if ratio(low) <= target:
        return low
    while high - low > CLOSE / 4:
        middle = (low + high) / 2
        low, high = (low, middle) if ratio(middle) <= target else (middle, high)
    return high


def unreachable(budget: float, done: Sequence[Try], integer: bool) -> OptionError:
    quickest = min(done, key=lambda one: one.ratio)
    advice = ["getac inspect says which units must stay"]
    if not integer:
        advice.insert(0, "calibration data puts layers on integers")
    return OptionError(
        "no sparsity meets the latency budget",
        required=f"a latency of at most {budget:.3g} of the original's",
        found=f"{quickest.ratio:.3g} at sparsity {quickest.sparsity:.3g}; {listed(done)}",
        hint="; ".join(advice),
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
    return "tried " + ", ".join(map(str, done))


def excess_note(budget: float, latency: Latency | None) -> Iterator[str]:
    """What a reader must know if the model was within the budget when it was picked, and is not now."""
    if latency is not None and latency.after_ms > budget * latency.before_ms:
        yield (
            f"the last measurement gives a latency of {latency.after_ms / latency.before_ms:.3g} of the"
            f" original's, which is over the budget of {budget:.3g}: it was within it when the model was"
            " picked, so this machine's times vary; a smaller budget, or a quieter machine, leaves a margin"
        )


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
