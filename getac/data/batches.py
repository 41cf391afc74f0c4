"""The batches that one lowering calibrates, verifies and measures on."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import numpy as np
import onnx_ir as ir

from getac.compression import Compressed
from getac.data.calibration import CalibrationData, Source, generate_inputs
from getac.errors import BadInputError, CalibrationError
from getac.onnx_graph.shapes import UnfittingSizesError, infer_shapes
from getac.onnx_graph.signature import batch_symbols, signature_of
from getac.options import Options
from getac.plans.saved_plan import PlannedQuantizer
from getac.verifying.agreement import Batch

__all__ = ["fixed_batches", "one_sample", "open_calibration", "some_batches", "verification_inputs"]

VERIFIED = 4  # batches of the data, or generated samples


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


def fixed_batches(original: ir.Model, data: CalibrationData, error: UnfittingSizesError) -> CalibrationData:
    """The data in batches of a size that the model runs on; raises `error` if there is none."""
    for sizes in data.batch_sizes():
        try:
            infer_shapes(original, {**data.settle(), **sizes})
        except BadInputError:
            continue
        return data.with_batches(sizes)
    raise error


def verification_inputs(result: Compressed, data: CalibrationData | None, how: Options) -> list[Batch]:
    """What the result of a lowering is verified on, and measured.

    Generated inputs of a model that follows a plan lie in the ranges that the plan's data had.
    """
    batches = some_batches(result.models.original, data, result.sizes, how.seed, VERIFIED)
    if data is not None or how.replayed is None:
        return batches
    return [moved_into(batch, how.replayed.quantizers) for batch in batches]


def moved_into(batch: Batch, planned: Mapping[str, PlannedQuantizer]) -> Batch:
    """Normal numbers, stretched so that the lattice of an input spans four standard deviations each way."""
    moved = dict(batch)
    for name in batch.keys() & planned.keys():
        lattice, x = planned[name].quantizer, batch[name]
        if lattice.axis is None and x.dtype.kind == "f":
            low, high = lattice.low * lattice.step, lattice.high * lattice.step
            x = (low + high) / 2 + (high - low) / 8 * x
            moved[name] = np.clip(x, low, high).astype(batch[name].dtype)
    return moved


def some_batches(
    model: ir.Model, data: CalibrationData | None, sizes: Mapping[str, int], seed: int, count: int
) -> list[Batch]:
    """The first `count` batches of the data, or `count` random samples where there is none.

    Args:
        sizes: Of the model's dynamic dimensions, at which it runs; that of the batch does not matter.
    """
    if data is not None:
        return list(islice(data, count))
    signature = signature_of(model)
    batch = batch_symbols(signature)
    fixed = {name: size for name, size in sizes.items() if name not in batch}
    return [generate_inputs(signature, fixed, seed, batch=count)]


def one_sample(result: Compressed, batch: Batch) -> Batch:
    """The first sample of a batch, where the batch size is open: along every dimension that it stands for."""
    signature = signature_of(result.models.original)
    free = batch_symbols(signature) - result.state.bindings.keys()
    cuts = {spec.name: tuple(slice(1 if dim in free else None) for dim in spec.shape) for spec in signature}
    return {name: np.asarray(batch[name][cut]) for name, cut in cuts.items()}
