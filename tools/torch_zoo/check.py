"""Checks one model of the zoo: half of the units of every open class go at once, in either graph."""

from __future__ import annotations

import time
from collections.abc import Sequence
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

__all__ = ["OTHER_BATCH", "Captured", "Finding", "check_captured", "check_exported", "halves", "prunable"]

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


def prunable(analysis: Analysis) -> float:
    """The share of the stored floats that lie in tensors with an open class."""
    view = analysis.view
    sizes = {value: prod(view.sizes(value) or ()) for value in view.parameters if view.is_float(value)}
    opened = {member.parameter for one in analysis.classes for member in one.members}
    return sum(size for value, size in sizes.items() if value in opened) / max(sum(sizes.values()), 1)


def kept_share(analysis: Analysis, masks: dict[Axis, Mask]) -> float:
    before = after = 0
    for value in analysis.parameters:
        keep = analysis.keep_masks(value, masks)
        if keep is not None and analysis.view.is_float(value):
            before += prod(mask.size for mask in keep)
            after += prod(int(mask.sum()) for mask in keep)
    return after / max(before, 1)


def finding(
    analysis: Analysis, masks: dict[Axis, Mask], difference: float, effect: float, seconds: float
) -> Finding:
    return Finding(
        nodes=len(analysis.view.nodes),
        classes=len(analysis.classes),
        prunable=prunable(analysis),
        kept=kept_share(analysis, masks),
        difference=difference,
        effect=effect,
        opaque=tuple(sorted({f"{node.operator}: {node.reason}" for node in analysis.opaque})),
        seconds=seconds,
    )


def check_captured(example: Example, seed: int = 0) -> Captured:
    """Captures, slices and compares in evaluation mode; the example's module shares the sliced parameters."""
    fx_law.randomize(example.module, seed)
    module = capture(example.module.eval(), example.args, example.kwargs)
    start = time.perf_counter()
    analysis = fx_law.analyzed(module)
    seconds = time.perf_counter() - start
    masks = halves(analysis, np.random.default_rng(seed))
    torch.manual_seed(seed)
    inputs = [(example.args, dict(example.kwargs))]
    inputs.append(fx_law.resized(inputs[0], OTHER_BATCH))
    masked = fx_law.masked_copy(module, analysis, masks)
    original = fx_law.outputs_of(module, *inputs[0])
    fx_law.cut(analysis, masks)
    expected = [fx_law.outputs_of(masked, *given) for given in inputs]
    found = [fx_law.outputs_of(module, *given) for given in inputs]
    difference = max(map(fx_law.difference, expected, found))
    effect = fx_law.difference(original, expected[0])
    return Captured(finding(analysis, masks, difference, effect, seconds), module, inputs)


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
    SliceUnits().run(state)
    feeds = [feeds_of(model, given) for given in inputs]
    expected = [law.outputs_of(masked, given) for given in feeds]
    found = [law.outputs_of(state.model, given) for given in feeds]
    difference = max(map(law.difference, expected, found))
    effect = law.difference(law.outputs_of(model, feeds[0]), expected[0])
    return finding(analysis, masks, difference, effect, seconds)
