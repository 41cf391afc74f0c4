"""Runs the passes of one lowering and keeps the model at the stages that are compared afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from getac.axes.wishes import Wishes
from getac.data.calibration import CalibrationData
from getac.measure import layer_bits, parameter_bits
from getac.notes import run_notes
from getac.onnx_graph.declared import declare_outputs
from getac.onnx_graph.edit import is_stored
from getac.onnx_graph.support import check_declared_outputs
from getac.options import Options
from getac.passes import State, analysis_passes, pruning_passes
from getac.placement.placement import place
from getac.plans.plan import Plan, make_plan
from getac.plans.structure import structure_of
from getac.quantizer import Quantizer
from getac.units.choice import Choice
from getac.units.masking import keeper, masked_copy
from getac.verifying.recorded import Recorded, Rounded
from getac.verifying.verification import Models

__all__ = ["Compressed", "analysed", "compress", "runs_on_integers"]


@dataclass(frozen=True)
class Compressed:
    """What came out of the passes, with what explains it.

    Args:
        models: The model at its stages.
        state: What the passes know, and what they refused.
        choice: The units that went.
        plan: Every decision.
        bits: Layer -> bits of its weight and of its input.
        parameter_bits: Bits of all stored tensors, by their quantizers.
        sizes: A size for every symbolic dimension: settled by data, or one that works.
        integer: Whether activations are quantized.
        replayed: Activation -> its lattice, where that is the one that a plan has for another checkpoint.
        notes: What a reader of the report should know.
    """

    models: Models
    state: State
    choice: Choice
    plan: Plan
    bits: Mapping[str, tuple[int, int]]
    parameter_bits: int
    sizes: Mapping[str, int]
    integer: bool
    replayed: Mapping[str, Quantizer]
    notes: Sequence[str]


def compress(
    original: ir.Model, data: CalibrationData | None, source: Path | None, how: Options
) -> Compressed:
    """Analyses, prunes and lowers a copy of a model.

    Args:
        data: To calibrate with; None leaves activations in floats unless the model has quantizers.
        source: Where the model came from, for the plan.

    Raises:
        BadInputError: The model, the data or an option cannot be used.
    """
    state = analysed(original, data, how)
    assert state.analysis is not None and state.shapes is not None
    if not state.bindings:  # sizes that data settled may be others than those the file was made for
        check_declared_outputs(state.model.graph, state.shapes)
    sizes = {**state.shapes.symbols, **state.bindings}
    structure = structure_of(state.model, state.shapes)
    integer = runs_on_integers(state) if how.replayed is None else how.replayed.integer
    how.run(state, how.choose_units(integer))
    analysis, choice = state.analysis, state.choice
    assert choice is not None
    notes = run_notes(original, analysis, choice, state, how, integer)
    if how.replayed is not None:
        notes.append(f"units and bits are those of the plan {how.replayed}")
    folded = Recorded.of(state.model.clone(), state)
    whole = choice.exact or not choice.removed
    reference = folded if whole else Recorded.of(masked_copy(state.model, analysis, choice), state)
    keep = keeper(state.model.graph, analysis, choice)

    how.run(state, *pruning_passes())
    sliced = Recorded.of(state.model.clone(), state)

    own = set(state.quantizers)
    if integer:
        how.run(state, *how.strategy_passes())
    how.run(state, *how.quantizing_passes(integer))
    lattices = {v: q for v, q in state.quantizers.items() if v not in own and not is_stored(v)}
    replayed = {str(v.name): q for v, q in lattices.items() if how.replayed is not None and data is None}
    placement = (
        place(state.model.graph, state.quantizers, data is not None, state.floats) if integer else None
    )
    bits = layer_bits(state.model.graph, state.quantizers, placement)
    total_bits = parameter_bits(state.model.graph, state.quantizers)
    plan = make_plan(
        source,
        structure,
        analysis,
        choice,
        state.quantizers,
        own=own,
        floats=state.floats,
        keep=how.keep,
        integer=integer,
    )
    adds = bool(own) and not own >= set(state.quantizers)
    planned = Recorded.of(state.model.clone(), state) if adds else sliced
    how.run(state, *how.lowering_passes(integer))
    declare_outputs(state.model)

    floats = (folded.model, reference.model, sliced.model)
    rounded = Rounded(folded, reference, sliced, planned) if folded.records else None
    models = Models(original, *floats, state.model, rounded, keep)
    return Compressed(models, state, choice, plan, bits, total_bits, sizes, integer, replayed, notes)


def analysed(original: ir.Model, data: CalibrationData | None, how: Options) -> State:
    """A copy of a model up to its pruning classes."""
    bindings = data.settle() if data else {}
    state = State(original.clone(), calibration=data, bindings=bindings, costs=how.costs)
    how.run(state, *analysis_passes(Wishes(keep=how.keep)))
    return state


def runs_on_integers(state: State) -> bool:
    """Whether there is data to calibrate with, or a layer that needs none: it has all its quantizers."""
    calibrated = state.calibration is not None
    return calibrated or bool(place(state.model.graph, state.quantizers, calibrated).values)
