"""The law of slicing, as a check: masked equals sliced, for any model and any choice of units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from getac.axes.analysis import Analysis
from getac.axes.axis import Axis, Mask
from getac.passes import (
    ChooseUnits,
    FoldQuantizers,
    InferAxes,
    InferShapes,
    RemoveDead,
    SliceUnits,
    analysis_passes,
)
from getac.pipeline import Fact, Pass, Pipeline, State
from getac.runtime import open_session, run
from getac.units.choice import Choice
from getac.units.masking import masked_copy

__all__ = [
    "AS_WRITTEN",
    "Evaluate",
    "Feeds",
    "Outcome",
    "Outputs",
    "analyzed",
    "check_dead",
    "check_law",
    "choose",
    "difference",
    "feeds_of",
    "opened",
    "outputs_of",
]

Feeds = Mapping[str, NDArray[np.generic]]
Outputs = list[NDArray[np.generic]]
Evaluate = Callable[[onnx.ModelProto | ir.Model], Callable[[Feeds], Outputs]]
"""Opens a model, once for all that is fed to it."""

AS_WRITTEN: tuple[Pass, ...] = (FoldQuantizers(), RemoveDead(), InferShapes(), InferAxes())
"""The analysis of the nodes that stand in the graph, nothing folded: what tests of single rules need."""

BATCH = 3


@dataclass(frozen=True)
class Outcome:
    """What one check found.

    Args:
        classes: How many open classes there were.
        units: Their units.
        removed: How many of them were removed.
        stored: The share of the float parameters that the removal cut away.
        difference: The largest difference between masked and sliced, relative to the largest output.
        opaque: How many nodes the analysis could not see through.
    """

    classes: int
    units: int
    removed: int
    stored: float
    difference: float
    opaque: int


def analyzed(model: onnx.ModelProto, passes: Sequence[Pass] | None = None) -> State:
    """A state of the model after the dependency analysis.

    Args:
        passes: What comes before, and the analysis; None: what `getac.analyze` and `getac.lower` do.
    """
    state = State(ir.serde.deserialize_model(model))
    return Pipeline(analysis_passes() if passes is None else passes).run(state)


def choose(analysis: Analysis, rng: np.random.Generator) -> Choice:
    """Random units of every open class at once; each class loses one at least, and keeps one."""
    masks: dict[Axis, Mask] = {}
    for one in analysis.classes:
        mask = masks[one.atom] = np.ones(one.size, dtype=np.bool_)
        mask[rng.permutation(one.size)[: rng.integers(1, one.size)]] = False
    removed = sum(int((~mask).sum()) for mask in masks.values())
    return Choice(masks, (), sum(one.size for one in analysis.classes), removed, exact=False)


def check_law(
    model: onnx.ModelProto,
    seed: int = 0,
    evaluate: Evaluate | None = None,
    passes: Sequence[Pass] | None = None,
) -> Outcome:
    """Removes random units of every open class and compares the sliced model with the masked one.

    Both run at two sizes of the symbolic dimensions.

    Args:
        evaluate: Opens a model; None: onnxruntime.
        passes: As of `analyzed`.
    """
    evaluate = evaluate or opened
    rng = np.random.default_rng(seed)
    state = analyzed(model, passes)
    analysis = state.analysis
    assert analysis is not None
    choice = state.choice = choose(analysis, rng)
    before = stored_floats(state.model)
    masked = masked_copy(state.model, analysis, choice)
    state.facts.add(Fact.CHOSEN)
    SliceUnits().run(state)
    run_masked, run_sliced = evaluate(masked), evaluate(state.model)
    worst = 0.0
    for batch in (BATCH, 1):
        feeds = feeds_of(model, rng, batch)
        worst = max(worst, difference(run_masked(feeds), run_sliced(feeds)))
    cut = 1 - stored_floats(state.model) / max(before, 1)
    return Outcome(len(analysis.classes), choice.units, choice.removed, cut, worst, len(analysis.opaque))


def check_dead(
    model: onnx.ModelProto,
    seed: int = 0,
    evaluate: Evaluate | None = None,
    passes: Sequence[Pass] | None = None,
) -> Outcome:
    """Zeroes random units, then removes what is dead: the function of the zeroed model must stay.

    `removed` counts the units that were found dead, which are most of the zeroed ones.
    """
    evaluate = evaluate or opened
    rng = np.random.default_rng(seed)
    state = analyzed(model, passes)
    assert state.analysis is not None
    masked = ir.serde.serialize_model(masked_copy(state.model, state.analysis, choose(state.analysis, rng)))
    small = analyzed(masked, passes)
    before = stored_floats(small.model)
    Pipeline([ChooseUnits(align=1), SliceUnits()]).run(small)
    assert small.analysis is not None and small.choice is not None
    feeds = feeds_of(model, rng)
    cut = 1 - stored_floats(small.model) / max(before, 1)
    return Outcome(
        len(small.analysis.classes),
        small.choice.units,
        small.choice.removed,
        cut,
        difference(evaluate(masked)(feeds), evaluate(small.model)(feeds)),
        len(small.analysis.opaque),
    )


def stored_floats(model: ir.Model) -> int:
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return sum(t.size for t in tensors if t is not None and t.dtype.is_floating_point())


def feeds_of(model: onnx.ModelProto, rng: np.random.Generator, batch: int = BATCH) -> Feeds:
    """Random numbers for every graph input; symbols are `batch`, `batch` + 1, ... Integers lie in [0, 4)."""
    stored = {tensor.name for tensor in model.graph.initializer}
    symbols: dict[str, int] = {}
    feeds: dict[str, NDArray[np.generic]] = {}
    for spec in model.graph.input:
        if spec.name in stored:
            continue
        tensor = spec.type.tensor_type
        shape = [
            dim.dim_value or symbols.setdefault(dim.dim_param, batch + len(symbols))
            for dim in tensor.shape.dim
        ]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        is_float = tensor.elem_type == onnx.TensorProto.FLOAT
        feeds[spec.name] = (rng.normal(size=shape) if is_float else rng.integers(0, 4, shape)).astype(dtype)
    return feeds


def opened(model: onnx.ModelProto | ir.Model) -> Callable[[Feeds], Outputs]:
    """Opens the model as it is written, without onnxruntime's rewriting."""
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    session = open_session(source, optimize=False)
    return lambda feeds: list(run(session, feeds).values())


def outputs_of(model: onnx.ModelProto | ir.Model, feeds: Feeds) -> Outputs:
    """Runs the model once, as it is written."""
    return opened(model)(feeds)


def difference(left: Outputs, right: Outputs) -> float:
    """The largest difference relative to the largest number of each output; infinite where shapes differ."""
    return max(map(_difference, left, right))


def _difference(left: NDArray[np.generic], right: NDArray[np.generic]) -> float:
    if left.shape != right.shape:
        return np.inf
    a, b = left.astype(np.float64), right.astype(np.float64)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return np.inf
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    return float(np.abs(a - b).max(initial=0) / max(np.abs(a).max(initial=0), 1e-6))
