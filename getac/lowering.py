"""`getac.lower`: from a model to a smaller, integer, verified one, and a report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from getac.agreement import Batch, check_file_format
from getac.calibration import CalibrationData, Source, generate_inputs
from getac.compression import Compressed, compress
from getac.errors import CalibrationError, VerificationError
from getac.measure import measure
from getac.onnx_graph.constants import check_weights
from getac.onnx_graph.read import load
from getac.onnx_graph.signature import batch_symbols, signature_of
from getac.onnx_graph.write import atomic_write_text, check_output, write_model
from getac.options import Options
from getac.report import Report
from getac.verification import Verification, verify

__all__ = ["lower"]

ModelSource = str | os.PathLike[str] | onnx.ModelProto | ir.Model
PathLike = str | os.PathLike[str]
VERIFIED_BATCHES = 4
GENERATED_SAMPLES = 4


def lower(
    model: ModelSource,
    output: PathLike | None = None,
    *,
    calibration: Source | None = None,
    report: PathLike | None = None,
    plan: PathLike | None = None,
    **options: Any,
) -> Report:
    """Prunes a model, lowers it to integers, verifies the result, and writes it.

    Args:
        model: A path, or a model in memory.
        output: Where to write; None writes no model.
        calibration: An .npz with one array per input, a folder of them, or arrays in memory. Without it,
            and without quantizers in the model, only weights become integers.
        report: Where to write the report as JSON; also written if the result does not verify.
        plan: Where to write the decisions as JSON.
        **options: The fields of `getac.options.Options`.

    Raises:
        BadInputError: The model, the data, an option or an output path cannot be used.
        VerificationError: The result is not what it should be; no model was written.
    """
    how = Options(**options)
    how.check()
    source = Path(model) if isinstance(model, str | os.PathLike) else None
    outputs = [path for path in (output, report, plan) if path is not None]
    check_paths([path for path in (model, calibration) if isinstance(path, str | os.PathLike)], outputs)
    how.step("read")
    original = load(model)
    if beside := external_files(original):
        check_paths(beside, outputs)
    check_weights(original)
    data = open_calibration(original, calibration)
    result = compress(original, data, source, how)

    how.step("verify")
    check_file_format(result.models.lowered)
    batches = verification_inputs(result, data, how)
    verification = verify(result.models, batches, generated=data is None)
    accepted = verification.passed or how.force
    if output is not None and accepted:
        how.step("write")
        write_model(result.models.lowered, output)

    how.step("measure")
    written = Path(output) if output is not None and accepted else None
    found = measure(result, verification, one_sample(original, batches[0]), source, written, how)
    if report is not None:
        atomic_write_text(report, found.as_json())
    if plan is not None and accepted:
        atomic_write_text(plan, result.plan.as_json())
    if not accepted:
        raise not_verified(verification)
    return found


def check_paths(inputs: Sequence[PathLike], outputs: Sequence[PathLike]) -> None:
    """Refuses outputs that cannot be written, or that are an input or each other."""
    for position, path in enumerate(outputs):
        check_output(path, [*inputs, *outputs[:position]])


def external_files(model: ir.Model) -> list[str]:
    """The files beside the model that hold its weights."""
    tensors = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    return sorted({str(tensor.path) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)})


def open_calibration(model: ir.Model, source: Source | None) -> CalibrationData | None:
    """Opens the data and checks that it settles every dynamic dimension but the batch."""
    if source is None:
        return None
    signature = signature_of(model)
    data = CalibrationData.open(source, signature)
    dynamic = {dim for spec in signature for dim in spec.shape if isinstance(dim, str)}
    missing = sorted(dynamic - batch_symbols(signature) - data.settle().keys())
    if missing:
        raise CalibrationError(
            "the calibration data does not settle the model's dynamic dimensions",
            where=", ".join(str(spec) for spec in signature),
            required=f"one size for {', '.join(missing)} in all of the data",
            found="several sizes",
            hint="pad or crop the samples to one size",
        )
    return data


def verification_inputs(result: Compressed, data: CalibrationData | None, how: Options) -> list[Batch]:
    """The first batches of the data, or random inputs of sizes that work."""
    if data is not None:
        return list(islice(data, VERIFIED_BATCHES))
    signature = signature_of(result.models.original)
    sizes = {name: size for name, size in result.sizes.items() if name not in batch_symbols(signature)}
    return [generate_inputs(signature, sizes, how.seed, batch=GENERATED_SAMPLES)]


def one_sample(model: ir.Model, batch: Batch) -> Batch:
    """The first sample of a batch, where the model leaves the batch size open."""
    dynamic = {spec.name for spec in signature_of(model) if spec.shape and isinstance(spec.shape[0], str)}
    return {name: array[:1] if name in dynamic else array for name, array in batch.items()}


def not_verified(verification: Verification) -> VerificationError:
    return VerificationError(
        "the result does not compute what the model computes; nothing was written",
        where=f"the first value that departs: {verification.departure}",
        found="; ".join(verification.failures),
        hint="--force writes it all the same; --report FILE has all the numbers",
    )
