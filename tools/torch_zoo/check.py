"""Checks one model of the zoo: half of the units of every open class go at once, in either graph."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import fx

from getac.axes.analysis import Analysis
from getac.axes.axis import Axis, Mask
from getac.axes.costs import meter_of
from getac.fx_graph.capture import capture
from getac.onnx_graph.read import read_proto
from getac.passes import SliceUnits, analysis_passes
from getac.pipeline import Fact, Pipeline, State
from getac.units.choice import Choice
from getac.units.masking import masked_copy
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
        roles: What their units are called, sorted.
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
    roles: tuple[str, ...]
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


@dataclass(frozen=True)
class Case:
    """An analysed graph before it is sliced.

    Args:
        prunable: The share of its parameters that lie in tensors with an open class.
        kept: The share that is left; both of the same tensors, those of the analysed graph.
    """

    analysis: Analysis
    prunable: float
    kept: float
    seconds: float

    @classmethod
    def of(cls, analysis: Analysis, masks: Mapping[Axis, Mask], seconds: float) -> Case:
        stored = analysis.costs.total.parameters
        left = meter_of(analysis, masks).total().parameters
        return cls(analysis, analysis.costs.prunable / stored, left / stored, seconds)

    def finding(self, difference: float, effect: float) -> Finding:
        analysis = self.analysis
        return Finding(
            nodes=len(analysis.view.nodes),
            classes=len(analysis.classes),
            roles=tuple(sorted(one.role for one in analysis.classes)),
            prunable=self.prunable,
            kept=self.kept,
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
    case = Case.of(analysis, masks, seconds)
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
    case = Case.of(analysis, masks, seconds)
    SliceUnits().run(state)
    feeds = [feeds_of(model, given) for given in inputs]
    expected, found = (list(map(law.opened(one), feeds)) for one in (masked, state.model))
    difference = max(map(law.difference, expected, found))
    return case.finding(difference, law.difference(law.outputs_of(model, feeds[0]), expected[0]))
