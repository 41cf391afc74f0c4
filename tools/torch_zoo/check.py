"""Checks one model of the zoo: half of the units of every open class go at once, in either graph."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
import torch
from torch import fx

from getac.axes.analysis import Analysis
from getac.axes.axis import Axis, Mask
from getac.choice import Choice
from getac.fx_graph.capture import capture
from getac.masking import masked_copy
from getac.onnx_graph.read import read_proto
from getac.passes import SliceUnits, analysis_passes
from getac.pipeline import Fact, Pipeline, State
from tools import fx_law, law
from tools.torch_zoo.example import BATCH, Example
from tools.torch_zoo.export import feeds_of

__all__ = ["OTHER_BATCH", "Captured", "Finding", "check_captured", "check_exported", "halves"]

OTHER_BATCH = BATCH + 1


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Args:
        nodes: How many operators the graph has.
        classes: How many open classes.
        prunable: The share of the stored floats that lie in tensors with an open class.
        kept: The share of the stored floats that is left when half of the units are gone.
        difference: The largest difference between masked and sliced at two batch sizes, relative to the
            largest number of each output.
        effect: How far, by the same measure, the masked model is from the original.
        opaque: The operators without a rule, with the reason.
        seconds: Wall time of the analysis, capture and export excluded.
    """

    nodes: int
    classes: int
    prunable: float
    kept: float
    difference: float
    effect: float
    opaque: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Captured:
    """A sliced module, and the inputs that it was checked with."""

    finding: Finding
    module: fx.GraphModule
    inputs: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]


def halves(analysis: Analysis, rng: np.random.Generator) -> dict[Axis, Mask]:
    """Half of the units of every open class, at random."""
    masks: dict[Axis, Mask] = {}
    for one in analysis.classes:
        mask = masks[one.atom] = np.ones(one.size, dtype=np.bool_)
        mask[rng.permutation(one.size)[: one.size // 2]] = False
    return masks


def stored_floats(analysis: Analysis) -> dict[Hashable, int]:
    """Stored float tensors -> how many numbers they hold."""
    view = analysis.view
    return {value: prod(view.sizes(value) or ()) for value in view.parameters if view.is_float(value)}


def opened_floats(analysis: Analysis) -> int:
    """How many stored floats lie in tensors with an open class."""
    opened = {member.parameter for one in analysis.classes for member in one.members}
    return sum(size for value, size in stored_floats(analysis).items() if value in opened)


def removed_floats(analysis: Analysis, masks: Mapping[Axis, Mask]) -> int:
    """How many stored floats the removed units own."""
    removed = 0
    for value, size in stored_floats(analysis).items():
        keep = analysis.keep_masks(value, masks)
        removed += size - prod(int(mask.sum()) for mask in keep or ()) if keep is not None else 0
    return removed


@dataclass(frozen=True)
class Case:
    """An analysed graph, and the units that go.

    Args:
        floats: How many the model stores, of which shares are told.
    """

    analysis: Analysis
    masks: dict[Axis, Mask]
    floats: int
    seconds: float

    def finding(self, difference: float, effect: float) -> Finding:
        analysis = self.analysis
        return Finding(
            nodes=len(analysis.view.nodes),
            classes=len(analysis.classes),
            prunable=opened_floats(analysis) / self.floats,
            kept=1 - removed_floats(analysis, self.masks) / self.floats,
            difference=difference,
            effect=effect,
            opaque=tuple(sorted({f"{node.operator}: {node.reason}" for node in analysis.opaque})),
            seconds=self.seconds,
        )


def check_captured(example: Example, seed: int = 0) -> Captured:
    """Captures, slices and compares in evaluation mode; the example's module shares the sliced parameters."""
    module = capture(example.module.eval(), example.args, example.kwargs)
    start = time.perf_counter()
    analysis = fx_law.analyzed(module)
    seconds = time.perf_counter() - start
    masks = halves(analysis, np.random.default_rng(seed))
    case = Case(analysis, masks, sum(stored_floats(analysis).values()), seconds)
    torch.manual_seed(seed)
    inputs = [(example.args, dict(example.kwargs))]
    inputs.append(fx_law.resized(inputs[0], OTHER_BATCH))
    masked = fx_law.masked_copy(module, analysis, masks)
    original = fx_law.outputs_of(module, *inputs[0])
    fx_law.cut(analysis, masks)
    expected = [fx_law.outputs_of(masked, *given) for given in inputs]
    found = [fx_law.outputs_of(module, *given) for given in inputs]
    difference = max(map(fx_law.difference, expected, found))
    return Captured(case.finding(difference, fx_law.difference(original, expected[0])), module, inputs)


def check_exported(model: onnx.ModelProto, inputs: Sequence[Any], seed: int = 0) -> Finding:
    """Slices an exported model and compares under onnxruntime, for each of the module's inputs."""
    state = State(read_proto(model))
    before = law.stored_floats(state.model)
    start = time.perf_counter()
    Pipeline(analysis_passes()).run(state)
    seconds = time.perf_counter() - start
    analysis = state.analysis
    assert analysis is not None
    masks = halves(analysis, np.random.default_rng(seed))
    removed = sum(int((~mask).sum()) for mask in masks.values())
    state.choice = Choice(masks, (), sum(mask.size for mask in masks.values()), removed, exact=False)
    state.facts.add(Fact.CHOSEN)
    masked = masked_copy(state.model, analysis, state.choice)
    floats = min(
        before, law.stored_floats(state.model)
    )  # passes fold norms away, and store what they compute
    case = Case(analysis, masks, floats, seconds)
    SliceUnits().run(state)
    feeds = [feeds_of(model, given) for given in inputs]
    expected = [law.outputs_of(masked, given) for given in feeds]
    found = [law.outputs_of(state.model, given) for given in feeds]
    difference = max(map(law.difference, expected, found))
    return case.finding(difference, law.difference(law.outputs_of(model, feeds[0]), expected[0]))
