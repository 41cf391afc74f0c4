"""`getac.lower`: from a model to a smaller, integer, verified one, and a report."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Union

import onnx
import onnx_ir as ir

from getac.compression import Compressed, analysed, compress, runs_on_integers
from getac.data.batches import fixed_batches, one_sample, open_calibration, verification_inputs
from getac.data.calibration import CalibrationData, Source
from getac.errors import OutputError, VerificationError
from getac.keywords import LowerKeywords, spelled_out
from getac.latency_budget import excess_note, least_change, least_sparsity, predicted_ratio, tries_note
from getac.measure import measure, measure_models
from getac.onnx_graph.constants import check_weights
from getac.onnx_graph.origin import origin_of
from getac.onnx_graph.read import load
from getac.onnx_graph.shapes import UnfittingSizesError
from getac.onnx_graph.support import check_supported
from getac.onnx_graph.write import atomic_write_text, check_output, same_file, write_model
from getac.options import Options
from getac.plans.fitting import fits_of, with_misfits
from getac.report import Report
from getac.verifying.agreement import Batch, check_file_format
from getac.verifying.verification import Verification
from getac.verifying.verify import verify

if TYPE_CHECKING:
    from torch import nn
    from typing_extensions import Unpack  # of typing since Python 3.11

__all__ = ["ModelSource", "PathLike", "lower", "lower_with"]

ModelSource = Union[str, os.PathLike[str], onnx.ModelProto, ir.Model, "nn.Module"]
PathLike = str | os.PathLike[str]


@spelled_out(LowerKeywords)
def lower(
    model: ModelSource,
    output: PathLike | None = None,
    *,
    calibration: Source | None = None,
    report: PathLike | None = None,
    plan: PathLike | None = None,
    **options: Unpack[LowerKeywords],
) -> Report:
    """Prunes a model, lowers it to integers, verifies the result, and writes it.

    Args:
        model: A path, a model in memory, or a module that `getac.prepare` returned.
        output: Where to write; None writes no model.
        calibration: An .npz with one array per input, a folder of them, or arrays in memory. Without it,
            and without quantizers in the model, only weights become integers.
        report: Where to write the report as JSON; also written if the result does not verify.
        plan: Where to write the decisions as JSON.
        sparsity: The share of units to remove, in [0, 1); "auto": those that are zero already.
        align: The multiple that channel counts are kept at; "auto": what each layer's kernel likes.
        ranges: How activation ranges are estimated: "minmax", "percentile" or "mse".
        weight_bits: 2 to 8, of weights without quantizers of their own whose layers run on integers: also of
            those that `getac.prepare(..., weight_bits=None)` left floats behind quantized activations;
            "auto": 8, or what `latency_budget` asks for.
        activation_bits: 2 to 8, likewise.
        block: How many inputs of a matrix share a step where activations stay floats: 16 to 256, a power of
            two; None: a step per output unit; "auto": 32 with 4 bits or fewer, else None.
        embedding_bits: 2 to 8, of tables without quantizers that rows are looked up in; None: floats.
        target: Who loads the result. "portable": opset 21, which onnxruntime and OpenVINO run on integers.
            "ort": onnxruntime alone; opset 25 where integers of 2 bits help, and less memory while it loads.
        cost: What kernels take on the machine that matters, as `tools/measure_kernels.py` wrote it; None: the
            table that ships with getac.
        latency_budget: Instead of a sparsity: the least one whose latency, measured here, is at most this
            part of the original's, in (0, 1). Where activations stay floats and `weight_bits` is "auto",
            weights of 4 bits are tried before units go.
        bench: Whether to measure latency.
        keep: Globs on parameter names: no unit of these is removed.
        force: Whether to write a result that does not verify.
        seed: For generated inputs.
        on_step: Called with the name of every step before it starts.
        on_sample: Called with the number of samples calibrated so far, and of all.

    Raises:
        BadInputError: The model, the data, an option or an output path cannot be used.
        VerificationError: The result is not what it should be; no model was written.
    """
    how = Options(**options)
    return lower_with(model, output, calibration=calibration, report=report, plan=plan, how=how)


def lower_with(
    model: ModelSource,
    output: PathLike | None,
    *,
    calibration: Source | None,
    report: PathLike | None,
    plan: PathLike | None,
    how: Options,
) -> Report:
    """The flow, whatever says which units go and how many bits are kept; see `lower`."""
    how.check()
    source = Path(model) if isinstance(model, str | os.PathLike) else None
    outputs = [path for path in (output, report, plan) if path is not None]
    check_paths(input_files(model, calibration, how.replayed and how.replayed.path), outputs)
    how.step("read")
    original = read(model)
    if beside := origin_of(original).files:
        check_paths(beside, outputs)
    check_weights(original)
    check_supported(original)
    data = open_calibration(original, calibration)
    if how.latency_budget is None:
        result, data = compress_on(original, data, source, how)
    else:
        result, data, how = compress_within_budget(original, data, source, how, how.latency_budget)

    how.step("verify")
    check_file_format(result.models.lowered)
    batches = verification_inputs(result, data, how)
    verification = verify(result.models, batches, generated=data is None)
    fits = list(fits_of(result.models.sliced, result.replayed, batches))
    verification = with_misfits(verification, fits)
    accepted = verification.passed or how.force

    how.step("measure")
    found = measure(result, verification, one_sample(result, batches[0]), source, how)
    if how.latency_budget is not None:
        found = replace(found, notes=[*found.notes, *excess_note(how.latency_budget, found.latency)])
    if output is not None and accepted:
        how.step("write")  # last: a failure before this leaves nothing behind
        found = found.written_to(output, write_model(result.models.lowered, output))
    if report is not None:
        atomic_write_text(report, found.as_json())
    if plan is not None and accepted:
        atomic_write_text(plan, result.plan.as_json())
    if not accepted:
        raise not_verified(verification, any(one.fails for one in fits))
    return found


def read(model: ModelSource) -> ir.Model:
    """What a file or a model in memory holds; a prepared module is exported first."""
    torch = sys.modules.get("torch")  # whoever has a module has imported torch
    if torch is not None and isinstance(model, torch.nn.Module):
        from getac.training.exporting import to_onnx

        return to_onnx(model)
    return load(model)  # type: ignore[arg-type]  # no module


def input_files(*sources: object) -> list[Path]:
    """The files that are read; those of a folder one by one."""
    paths = [Path(source) for source in sources if isinstance(source, str | os.PathLike)]
    return [file for path in paths for file in (path.glob("*.npz") if path.is_dir() else [path])]


def check_paths(inputs: Sequence[PathLike], outputs: Sequence[PathLike]) -> None:
    """Refuses outputs that cannot be written, or that are an input or each other."""
    for position, path in enumerate(outputs):
        check_output(path, inputs)
        for other in outputs[:position]:
            if same_file(path, other):
                raise OutputError(
                    "two outputs are the same file",
                    where=str(path),
                    found=str(other),
                    hint="give the model, the report and the plan a file each",
                )


def compress_on(
    original: ir.Model, data: CalibrationData | None, source: Path | None, how: Options
) -> tuple[Compressed, CalibrationData | None]:
    """Compresses a model; one that does not run on all batches, on fixed batches of the data."""
    try:
        return compress(original, data, source, how), data
    except UnfittingSizesError as error:
        if data is None:
            raise
        data = fixed_batches(original, data, error)
    return compress(original, data, source, how), data


def compress_within_budget(
    original: ir.Model, data: CalibrationData | None, source: Path | None, how: Options, budget: float
) -> tuple[Compressed, CalibrationData | None, Options]:
    """Compresses a model as little as a latency budget allows; also the options that this sets."""
    how.step("predict")
    state = analysed(original, data, how)
    integer = runs_on_integers(state)

    def attempt(
        sparsity: float, bits: int | Literal["auto"] = how.weight_bits
    ) -> tuple[tuple[Compressed, CalibrationData | None], float]:
        tried = replace(how, sparsity=sparsity, weight_bits=bits)
        result, used = compress_on(original, data, source, tried)
        how.step("measure")
        return (result, used), measured_ratio(result, verification_inputs(result, used, how)[0])

    predict = predicted_ratio(state, how.multiple, integer, data)
    if integer or how.weight_bits != "auto":
        found = least_sparsity(budget, attempt, predict, integer=integer)
    else:
        found = least_change(budget, attempt, predict)
    result, used = found.result
    notes = [*result.notes, tries_note(budget, found.tries, integer)]
    how = replace(how, sparsity=found.sparsity, weight_bits=found.weight_bits or how.weight_bits)
    return replace(result, notes=notes), used, how


def measured_ratio(result: Compressed, batch: Batch) -> float:
    """The latency of the result over that of the original, for one sample."""
    latency, _ = measure_models(result.models, one_sample(result, batch))
    return latency.after_ms / latency.before_ms


def not_verified(verification: Verification, misfits: bool) -> VerificationError:
    return VerificationError(
        "the result does not compute what the model computes; nothing was written",
        where=f"the first value that departs: {verification.departure}",
        found="; ".join([*verification.failures, *verification.notes]),
        hint="--calibration measures the ranges of this model; --force writes it all the same"
        if misfits
        else "--force writes it all the same; --report FILE has all the numbers",
    )
