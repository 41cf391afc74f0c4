"""Measures a result and writes the report: layers before and after, totals, latency under onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from getac.agreement import Batch
from getac.cost import LayerCost, layer_costs, stored_bytes, weight_bytes
from getac.executed import Kernel, executed_kernels, layer_kernels, trace_layer
from getac.onnx_graph.signature import batch_symbols, signature_of
from getac.pipeline import Refusal
from getac.placement import LAYERS, NO_INTEGER_KERNEL, Placement
from getac.plan import versions
from getac.quantizer import Quantizer
from getac.report import Latency, LayerReport, Report, Totals
from getac.runtime import measure_latency, open_session
from getac.verification import Models, Verification

if TYPE_CHECKING:
    from getac.compression import Compressed
    from getac.options import Options

__all__ = ["layer_bits", "measure"]

FLOAT_BITS = 32


def measure(
    result: Compressed,
    verification: Verification,
    sample: Batch,
    source: Path | None,
    output: Path | None,
    how: Options,
) -> Report:
    """Measures what came out of the passes.

    Args:
        sample: The inputs that latency is measured on.
        source: The file that was read, if it was one.
        output: The file that was written, if any.
    """
    models, state, choice = result.models, result.state, result.choice
    per_sample = {**result.sizes, **dict.fromkeys(batch_symbols(signature_of(models.original)), 1)}
    layers = layer_reports(models, per_sample, result.bits, state.refusals, result.integer)
    return Report(
        source=str(source) if source else "a model in memory",
        output=str(output) if output else None,
        sparsity_requested=None if how.sparsity == "auto" else how.sparsity,
        sparsity=choice.sparsity,
        units=choice.units,
        units_removed=choice.removed,
        calibrated=result.integer,
        layers=layers,
        before=totals(models.original, layers, source, after=False),
        after=totals(models.lowered, layers, output, after=True),
        latency=measure_models(models, sample) if how.bench else None,
        verification=verification,
        refusals=state.refusals,
        passes=state.records,
        versions=versions(),
    )


def layer_reports(
    models: Models,
    sizes: Mapping[str, int],
    bits: Mapping[str, tuple[int, int]],
    refusals: Mapping[str, Sequence[Refusal]],
    integer: bool,
) -> list[LayerReport]:
    """One row per layer of the sliced model.

    Args:
        sizes: A size for every symbolic dimension.
        bits: Layer -> bits of its weight and of its input, where they are integers.
        refusals: What the passes left as it was.
        integer: Whether activations are quantized at all.
    """
    before, after = layer_costs(models.original, sizes), layer_costs(models.sliced, sizes)
    old, new = nodes_by_name(models.original), nodes_by_name(models.lowered)
    kernels = run_as(models.lowered)
    reasons = {one.where: one.reason for many in refusals.values() for one in many}
    rows = []
    for name, cost in after.items():
        first = before.get(name, cost)
        kernel = kernels.get(name)
        weight_bits, activation_bits = bits.get(name, (FLOAT_BITS, FLOAT_BITS))
        rows.append(
            LayerReport(
                name=name,
                operator=cost.operator,
                channels_in_before=first.channels_in,
                channels_in=cost.channels_in,
                channels_out_before=first.channels_out,
                channels_out=cost.channels_out,
                weight_bits=weight_bits,
                activation_bits=activation_bits,
                bytes_before=stored_bytes(old[name]) if name in old else 0,
                bytes=stored_bytes(new[name]) if name in new else 0,
                macs_before=first.macs,
                macs=cost.macs,
                bops_before=bops(first, FLOAT_BITS, FLOAT_BITS),
                bops=bops(cost, weight_bits, activation_bits),
                kernel=str(kernel) if kernel else "unknown",
                reason=""
                if kernel and kernel.kind == "integer"
                else reason_for(cost, reasons.get(name), integer),
            )
        )
    return rows


def bops(cost: LayerCost, weight_bits: int, activation_bits: int) -> int:
    return cost.macs * weight_bits * activation_bits


def reason_for(cost: LayerCost, refusal: str | None, integer: bool) -> str:
    """Why a layer does not run on integers."""
    if refusal:
        return refusal
    if cost.operator in NO_INTEGER_KERNEL:
        return f"onnxruntime has no integer kernel for {cost.operator}"
    if not integer:
        return "no calibration data"
    if cost.parameters == 0:
        return "a product of two activations, without quantizers"
    return "onnxruntime did not fuse it"


def nodes_by_name(model: ir.Model) -> dict[str, ir.Node]:
    return {node.name: node for node in model.graph if node.name}


def run_as(model: ir.Model) -> dict[str, Kernel]:
    """What onnxruntime runs each layer as, read from its own optimised graph."""
    layers = {n.name: trace_layer(n) for n in model.graph if n.op_type in LAYERS and n.name}
    return layer_kernels(layers, executed_kernels(model))


def totals(model: ir.Model, layers: Sequence[LayerReport], path: Path | None, after: bool) -> Totals:
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return Totals(
        parameters=sum(t.size for t in tensors if t is not None),
        weight_bytes=weight_bytes(model),
        file_bytes=file_bytes(model, path),
        macs=sum(row.macs if after else row.macs_before for row in layers),
        bops=sum(row.bops if after else row.bops_before for row in layers),
    )


def file_bytes(model: ir.Model, path: Path | None) -> int | None:
    """The size of a model's file and of the data files beside it."""
    if path is None:
        return None
    beside = path.with_name(f"{path.name}.data")
    if beside.exists():
        return path.stat().st_size + beside.stat().st_size
    tensors = [value.const_value for value in model.graph.initializers.values()]
    files = {Path(tensor.path) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    return path.stat().st_size + sum(file.stat().st_size for file in files)


def measure_models(models: Models, batch: Batch) -> Latency:
    """Times the original and the result, interleaved, on one thread."""
    sessions = {"before": open_session(models.original), "after": open_session(models.lowered)}
    medians = measure_latency(sessions, batch)
    return Latency(medians["before"], medians["after"])


def layer_bits(
    graph: ir.Graph, quantizers: Mapping[ir.Value, Quantizer], placement: Placement | None
) -> dict[str, tuple[int, int]]:
    """Layer -> bits of its weight and of its input in the result, floats counting 32."""
    bits: dict[str, tuple[int, int]] = {}
    for node in graph:
        if node.op_type not in LAYERS or not node.name:
            continue
        weight, x = quantizers.get(node.inputs[1]), quantizers.get(node.inputs[0])  # type: ignore[arg-type]
        runs = placement is not None and node in placement.integer
        bits[node.name] = (
            weight.bits if weight is not None else FLOAT_BITS,
            x.bits if runs and x is not None else FLOAT_BITS,
        )
    return bits
