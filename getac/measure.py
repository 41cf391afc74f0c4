"""Measures a result and writes the report: layers before and after, totals, latency under onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from getac.axes.meter import FLOAT_BITS, Cost, LayerCost, Meter, bit_operations
from getac.errors import UnsupportedModelError
from getac.executed import Kernel, Layer, executed_kernels, layer_kernels, trace_layer
from getac.kernel_costs import CostTable
from getac.notes import kernel_notes
from getac.onnx_graph.origin import origin_of
from getac.onnx_graph.packing.storage import storage_of
from getac.onnx_graph.shapes import infer_shapes
from getac.onnx_graph.signature import batch_symbols, signature_of
from getac.onnx_graph.view import OnnxView
from getac.pipeline import Refusal
from getac.placement.placement import LAYERS, NO_INTEGER_KERNEL, Placement, output_dimension
from getac.placement.predictions import NOTHING, predict_layers
from getac.plans.plan import versions
from getac.quantizer import Quantizer
from getac.report import Latency, LayerReport, Report, Totals
from getac.runtime import measure_latency, open_session
from getac.stored import Sources, bytes_by_node, bytes_stored, constant_sources
from getac.verifying.agreement import Batch
from getac.verifying.verification import Models, Verification

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from getac.compression import Compressed
    from getac.options import Options

__all__ = ["layer_bits", "measure", "parameter_bits"]

INTEGER_BITS = 8
CONVOLUTIONS = ("Conv", "ConvTranspose")


def measure(
    result: Compressed,
    verification: Verification,
    sample: Batch,
    source: Path | None,
    how: Options,
) -> Report:
    """Measures what came out of the passes, before it is written.

    Args:
        sample: The inputs that latency is measured on.
        source: The file that was read, if it was one.
    """
    models, state, choice = result.models, result.state, result.choice
    latency, hindered = measure_models(models, sample) if how.bench else (None, [])
    batch = batch_symbols(signature_of(models.original)) - state.bindings.keys()
    per_sample = {**result.sizes, **dict.fromkeys(batch, 1)}
    layers = layer_reports(models, per_sample, result.bits, state.refusals, result.integer, how.costs)
    return Report(
        source=str(source) if source else "a model in memory",
        output=None,
        sparsity_requested=None if how.sparsity == "auto" else how.sparsity,
        sparsity=choice.sparsity,
        units=choice.units,
        units_removed=choice.removed,
        calibrated=result.integer,
        sizes=per_sample,
        notes=[*result.notes, *hindered, *kernel_notes(layers)],
        layers=layers,
        before=totals(models.original, layers, file_bytes(models.original, source), after=False),
        after=totals(models.lowered, layers, None, after=True, parameters=models.sliced),
        least_bytes=result.parameter_bits // 8,
        latency=latency,
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
    costs: CostTable,
) -> list[LayerReport]:
    """One row per layer of the sliced model.

    Args:
        sizes: A size for every symbolic dimension.
        bits: Layer -> bits of its weight and of its input, where they are integers.
        refusals: What the passes left as it was.
        integer: Whether activations are quantized at all.
        costs: What predictions are made with.
    """
    before, counted = multiplying_layers(models.original, sizes), multiplying_layers(models.sliced, sizes)
    nodes, sources = nodes_by_name(models.sliced), sources_of(models.sliced)
    rows_of = [name for name, node in nodes.items() if name in counted or is_standard_layer(node)]
    after = {name: counted.get(name) or uncounted(nodes[name]) for name in rows_of}
    old, new = bytes_by_node(models.original.graph), bytes_by_node(models.lowered.graph)
    kernels = run_as(models.lowered)
    predicted = predict_layers(models.sliced, sizes, kernels, bits, costs)
    constant = sources_of(models.lowered)
    lowered = {name: node for name, node in nodes_by_name(models.lowered).items() if len(node.inputs) > 1}
    storage = {name: storage_of(node) for name, node in lowered.items() if node.inputs[1] in constant}
    reasons = {one.where: one.reason for many in refusals.values() for one in many}
    rows = []
    for name, layer in after.items():
        first = before.get(name, layer)
        kernel = kernels.get(name)
        is_integer = kernel is not None and kernel.kind == "integer"
        weight_bits, activation_bits = bits.get(name, (FLOAT_BITS, FLOAT_BITS))
        if is_integer:
            weight_bits, activation_bits = min(weight_bits, INTEGER_BITS), min(activation_bits, INTEGER_BITS)
        else:
            activation_bits = FLOAT_BITS  # whatever was meant to run
        why = ["" if is_integer else reasons.get(name) or reason_for(nodes[name], sources, integer)]
        if name not in counted:
            why.append("its shapes are unknown: no MACs are counted")
        rows.append(
            LayerReport(
                name=name,
                operator=layer.operator,
                channels_in_before=first.channels_in,
                channels_in=layer.channels_in,
                channels_out_before=first.channels_out,
                channels_out=layer.channels_out,
                weight_bits=weight_bits,
                activation_bits=activation_bits,
                bytes_before=old.get(name, 0),
                bytes=new.get(name, 0),
                storage=storage.get(name, ""),
                macs_before=first.cost.macs,
                macs=layer.cost.macs,
                bops_before=first.cost.bops,
                bops=bit_operations(layer.cost.macs, weight_bits, activation_bits),
                kernel=str(kernel) if kernel else "unknown",
                reason="; ".join(filter(None, why)),
                strategy=predicted.get(name, NOTHING).strategy,
                predicted_ms=predicted.get(name, NOTHING).ms,
            )
        )
    return rows


def multiplying_layers(model: ir.Model, sizes: Mapping[str, int]) -> dict[str, LayerCost]:
    """The layers of known shape that multiply, in floats, by name."""
    view = OnnxView(model, infer_shapes(model, sizes))
    return {layer.name: layer for layer in Meter.of(view, view.sizes).layers() if layer.cost.macs}


def sources_of(model: ir.Model) -> Sources:
    return constant_sources(model.graph, model.graph.initializers.values())


def is_standard_layer(node: ir.Node) -> bool:
    return node.op_type in LAYERS and node.domain in ("", "ai.onnx")


def uncounted(node: ir.Node) -> LayerCost:
    """What its weight says of a layer whose shapes are unknown."""
    weight = node.inputs[1]
    into, out = 0, 0
    if weight is not None and weight.const_value is not None and len(weight.const_value.shape) > 1:
        shape, groups = weight.const_value.shape.numpy(), node.attributes.get_int("group", 1)
        row, column = (shape[0], shape[1]) if node.op_type in CONVOLUTIONS else shape[-2:]
        into, out = (row, column * groups) if output_dimension(node) else (column * groups, row)
    return LayerCost(node.name or "", node.op_type, into, out, Cost(0, 0, 0, 0))


def reason_for(node: ir.Node, sources: Sources, integer: bool) -> str:
    """Why a layer that no pass refused does not run on integers."""
    if node.op_type in NO_INTEGER_KERNEL:
        return f"onnxruntime has no integer kernel for {node.op_type}"
    if not is_standard_layer(node):
        return f"integer kernels are not used for {node.op_type}"
    if not integer:
        return "no calibration data"
    weight = node.inputs[1]
    if weight is None or weight.const_value is None:
        return product_reason(node, sources)
    return "onnxruntime did not fuse it"


def product_reason(node: ir.Node, sources: Sources) -> str:
    left, right = node.inputs[0], node.inputs[1]
    if left in sources:
        return "its weight is the first factor, and integer kernels have it as the second"
    if right in sources:
        return "its weight is computed when the graph runs"
    return "a product of two activations, without quantizers"


def nodes_by_name(model: ir.Model) -> dict[str, ir.Node]:
    return {node.name: node for node in model.graph if node.name}


def run_as(model: ir.Model) -> dict[str, Kernel]:
    """What onnxruntime runs each layer as, read from its own optimised graph."""
    kinds = (*LAYERS, "MatMulInteger")  # a MatMul that quantizes its activations as it runs
    layers = {n.name: also_cast(trace_layer(n)) for n in model.graph if n.op_type in kinds and n.name}
    return layer_kernels(layers, executed_kernels(model))


def also_cast(layer: Layer) -> Layer:
    """The layer, known also by what its results are called where onnxruntime computes float16 in float32."""
    cast = [f"InsertedPrecisionFreeCast_{result}" for result in layer.results]
    return replace(layer, results=(*layer.results, *cast))


def totals(
    model: ir.Model,
    layers: Sequence[LayerReport],
    size: int | None,
    after: bool,
    parameters: ir.Model | None = None,
) -> Totals:
    """Sums over a model; `parameters`: where they are counted, if the model has several to a byte."""
    tensors = [value.const_value for value in (parameters or model).graph.initializers.values()]
    return Totals(
        parameters=sum(t.size for t in tensors if t is not None),
        weight_bytes=bytes_stored(model.graph),
        file_bytes=size,
        macs=sum(row.macs if after else row.macs_before for row in layers),
        bops=sum(row.bops if after else row.bops_before for row in layers),
    )


def file_bytes(model: ir.Model, path: Path | None) -> int | None:
    """The size of the file that a model was read from, and of the data files that it names."""
    if path is None:
        return None
    return sum(file.stat().st_size for file in (path, *origin_of(model).files))


def measure_models(models: Models, batch: Batch) -> tuple[Latency, list[str]]:
    """Times the original and the result, interleaved, on one thread; and notes on how."""
    before, notes = session_of_original(models.original)
    medians = measure_latency({"before": before, "after": open_session(models.lowered)}, batch)
    return Latency(medians["before"], medians["after"]), notes


def session_of_original(model: ir.Model) -> tuple[InferenceSession, list[str]]:
    """onnxruntime's rewrites may fail on a model that is valid; as it is written it still runs."""
    try:
        return open_session(model), []
    except UnsupportedModelError as error:
        session = open_session(model, optimize=False)
        why = f"onnxruntime's optimisations fail on the original model ({error.found})"
        return session, [f"{why}: its latency is that without them"]


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


def parameter_bits(graph: ir.Graph, quantizers: Mapping[ir.Value, Quantizer]) -> int:
    """Bits of all stored tensors: as many as their quantizers have, or their type."""
    total = 0
    for value in graph.initializers.values():
        record, tensor = quantizers.get(value), value.const_value
        if tensor is not None:
            total += tensor.size * (record.bits if record is not None else tensor.dtype.bitwidth)
    return total
