"""What a reader of a report should know: sizes that nobody gave, a sparsity that was not reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from getac.axes.analysis import Analysis
from getac.onnx_graph.origin import origin_of
from getac.onnx_graph.signature import batch_symbols, signature_of
from getac.options import Options
from getac.pipeline import State
from getac.placement.alignment import unit_multiples
from getac.report import LayerReport
from getac.units.bundles import bundles_of
from getac.units.choice import Choice

__all__ = ["kernel_notes", "run_notes"]

FAR = 0.05  # of the sparsity that was asked for


def run_notes(
    original: ir.Model, analysis: Analysis, choice: Choice, state: State, how: Options, integer: bool
) -> list[str]:
    """The notes on one run, after the units were chosen and before they are removed."""
    notes = [*sizes_note(original, state), *shortfall(analysis, choice, how, integer)]
    if defaults := origin_of(original).defaults:
        notes.append(
            f"inputs with a default are constants of the result: {', '.join(defaults)};"
            " callers can no longer override them"
        )
    return notes


def kernel_notes(layers: Sequence[LayerReport]) -> Iterator[str]:
    """What users of the result can choose in onnxruntime."""
    rows = [layer for layer in layers if "MatMulNBits" in layer.kernel]
    if rows:
        yield (
            f"MatMulNBits, which {len(rows)} of {len(layers)} layers run as, rounds activations to 8 bits on"
            " the fly (noise of about 0.5 %): the session option session.qdq_matmulnbits_accuracy_level=0"
            " keeps them floats, and is slower; session.qdq_matmulnbits_block_size=128 is faster where a unit"
            " has one step"
        )


def sizes_note(original: ir.Model, state: State) -> Iterator[str]:
    """Which sizes MACs, BOPs and latency are taken at, where the model and the data do not say."""
    assert state.shapes is not None
    batch = batch_symbols(signature_of(original))
    known = batch | state.bindings.keys()
    assumed = {name: size for name, size in state.shapes.symbols.items() if name not in known}
    if assumed:
        yield (
            f"MACs, BOPs and latency are at {listed(assumed)}: sizes made up because the model leaves them"
            " open; calibration data settles them"
        )
    if bound := {name: size for name, size in state.bindings.items() if name in batch}:
        yield f"the model does not run on all batches: MACs, BOPs and latency are for {listed(bound)}"


def listed(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} = {size}" for name, size in sizes.items())


def shortfall(analysis: Analysis, choice: Choice, how: Options, integer: bool) -> Iterator[str]:
    """Why the share of removed units is far from the one that was asked for."""
    if how.share is None or abs(choice.sparsity - how.share) <= FAR:
        return
    reasons = [f"{choice.units} units are open to removal"]
    if analysis.frozen and choice.sparsity < how.share:
        reasons.append(f"{len(analysis.frozen)} axes are frozen (getac inspect says why)")
    coarse = sorted({m for m in unit_multiples(analysis, how.multiple, integer, how.costs).values() if m > 1})
    if coarse:
        multiples = ", ".join(map(str, coarse))
        reasons.append(f"a class keeps a multiple of {multiples} units (--align 1 lifts that)")
    if bundles_of(analysis):
        reasons.append("units whose weights share steps in blocks go together")
    if choice.units and choice.sparsity < how.share:
        reasons.append("a class never goes as a whole")
    yield f"asked for {how.share:.0%} of the units, removed {choice.sparsity:.0%}: {'; '.join(reasons)}"
