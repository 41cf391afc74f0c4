"""`getac.compare`: does one model compute what another computes, and if not, where does it begin?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from getac.data.calibration import Batch, CalibrationData, Source
from getac.data.sample_inputs import (
    GENERATED_SAMPLES,
    Signature,
    check_not_negative,
    check_sizes,
    generated,
    open_sizes,
)
from getac.errors import BadInputError, OptionError
from getac.onnx_graph.model_file import ModelFile, ModelSource
from getac.onnx_graph.read import load
from getac.onnx_graph.shapes import infer_shapes
from getac.verifying.agreement import BOUNDS, NOT_FUSED, relative_bound
from getac.verifying.comparison import Comparison, FirstDeparture, InputAgreement, ValueComparison
from getac.verifying.differences import Difference
from getac.verifying.matching import (
    Pair,
    common_pairs,
    computed,
    label,
    output_pairs,
    rounded_from,
    step_of,
    upstream,
)
from getac.verifying.paired_runs import inner_differences, output_differences
from getac.verifying.same_signature import common_signature
from getac.verifying.verify import samples_in

__all__ = ["compare"]


@dataclass(frozen=True)
class Samples:
    """The inputs of both models; the batches can be iterated again and again."""

    batches: Iterable[Batch]
    count: int
    generated: bool


def compare(
    reference: ModelSource,
    result: ModelSource,
    data: Source | None = None,
    *,
    all_values: bool = False,
    tolerance: float | Literal["auto"] = "auto",
    batch: int | None = None,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Comparison:
    """Runs two models on the same inputs and compares their outputs, and the values inside if asked to.

    The reference runs as it is written, the result as onnxruntime optimises it: that is what will be served.
    Values inside are compared with both graphs as they are written. They are held in memory a batch at a
    time, and at most 256 MB of them: a larger model runs several times.

    Args:
        reference: A path or model of ONNX that is right.
        result: A path or model of ONNX that is judged, with the same inputs and outputs.
        data: An .npz with one array per input, a folder of them, or arrays in memory; random without.
        all_values: Whether to compare every value that both graphs compute from their inputs, by name.
        tolerance: The bound on max |a - b| / max |a|; "auto": 1e-4, more for half precision (5e-3, 3e-2 for
            bfloat16), and 0.1 where either model is quantized.
        batch: The size of an open first dimension; None: 8 with data, 4 without.
        sizes: Symbolic dimension -> its size, for generated inputs; sizes that work where it is left out.
        seed: For generated inputs.

    Raises:
        BadInputError: A model, the data or an option cannot be used; inputs or outputs of the models differ;
            the reference computes NaN.
        GetacError: A model fails while it runs.
    """
    if tolerance != "auto":
        check_not_negative("tolerance", tolerance, "a number, 0 or more, or auto")
    a, b = ModelFile.open(reference), ModelFile.open(result)
    signature = common_signature(a, b)
    samples = samples_of(a, signature, data, sizes or {}, batch, seed)
    bound = bound_for(a.model, b.model) if tolerance == "auto" else float(tolerance)
    outputs = compare_outputs(a, b, samples)
    inside, skipped = compare_inside(a, b, samples) if all_values else ([], [])
    departure = first_departure(a.model, inside, bound) or first_departure(a.model, outputs, bound)
    return Comparison(
        reference=a.name,
        result=b.name,
        outputs=outputs,
        values=inside,
        skipped=skipped,
        tolerance=bound,
        samples=samples.count,
        generated=samples.generated,
        departure=departure,
        notes=notes(inside, outputs, bound),
    )


def bound_for(*models: ir.Model) -> float:
    """What models of these types may differ by."""
    if any(is_quantized(model) for model in models):
        return BOUNDS.quantized_relative
    return max(map(relative_bound, models))


def is_quantized(model: ir.Model) -> bool:
    """Whether there are quantizers, or weights that are stored as small integers."""
    stored = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    weights = (tensor for tensor in stored if tensor is not None and len(tensor.shape) > 1)
    return any(tensor.dtype.is_integer() and tensor.dtype.bitwidth <= 8 for tensor in weights) or any(
        node.op_type.endswith(("QuantizeLinear", "DequantizeLinear")) for node in model.graph
    )


def samples_of(
    file: ModelFile,
    signature: Signature,
    data: Source | None,
    sizes: Mapping[str, int],
    batch: int | None,
    seed: int,
) -> Samples:
    """The data, or one batch of random inputs."""
    check_sizes([signature], sizes, batch)
    if data is not None:
        if sizes:
            raise OptionError("the data settles all sizes", found=", ".join(sizes), hint="leave out --size")
        with file.named():
            found = CalibrationData.open(data, signature, batch_size=batch or 8)
        return Samples(found, found.samples, generated=False)
    if open_sizes(signature, sizes):
        sizes = {**fitting_sizes(file, signature, sizes), **sizes}
    count = batch or GENERATED_SAMPLES
    feed = generated(signature, sizes, count, seed)
    return Samples([feed], samples_in(feed), generated=True)


def fitting_sizes(file: ModelFile, signature: Signature, sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes of the open dimensions, the batch left out, that the model runs on."""
    missing = open_sizes(signature, sizes)
    try:
        found = infer_shapes(load(file.runnable), sizes).symbols
        return {name: found[name] for name in missing}
    except (BadInputError, KeyError) as error:
        raise OptionError(
            "the model has dynamic dimensions of unknown size",
            where=f"{file.name}: {', '.join(map(str, signature))}",
            required=f"a size for {', '.join(missing)}",
            hint=f"{' '.join(f'--size {name}=32' for name in missing)} (or what you run it at), or --data",
        ) from error


def compare_outputs(a: ModelFile, b: ModelFile, samples: Samples) -> list[ValueComparison]:
    """The outputs, of the reference as it is written and of the result as onnxruntime optimises it."""
    pairs = output_pairs(a.model, b.model)
    totals = output_differences(a, b, pairs, samples.batches)
    for pair in pairs:
        check_comparable(a, pair.name, totals[pair.name])
    return [compared(pair, total) for pair in pairs if (total := totals[pair.name]) is not None]


def compare_inside(a: ModelFile, b: ModelFile, samples: Samples) -> tuple[list[ValueComparison], list[str]]:
    """The values that both graphs have, and the names of those that are not comparable."""
    pairs = common_pairs(a.model, b.model)
    totals = inner_differences(a, b, pairs, samples.batches)
    known = [(pair, total) for pair in pairs if (total := totals[pair.name]) is not None and total.shapes]
    names = {pair.name for pair, _ in known}
    return [compared(*one) for one in known], [pair.name for pair in pairs if pair.name not in names]


def check_comparable(a: ModelFile, name: str, total: Difference | None) -> None:
    """Refuses outputs that say nothing: no numbers, or NaN where the truth should be."""
    if total is None:
        raise BadInputError(
            "an output cannot be compared",
            where=f"{a.name}: output {name}",
            required="numbers in both models, and both or none of them floats",
        )
    if total.nans:
        raise BadInputError(
            "the reference computes NaN: there is nothing to compare with",
            where=f"{a.name}: output {name}",
            found=f"{total.nans} of {total.elements} values",
            hint="do the inputs look like those that the model was made for?",
        )


def compared(pair: Pair, total: Difference) -> ValueComparison:
    step = step_of(pair.found)
    if step is None and pair.found.dtype is not None and pair.found.dtype.is_integer():
        step = 1.0
    return ValueComparison.of(pair.name, label(pair.expected), label(rounded_from(pair.found)), total, step)


def first_departure(
    model: ir.Model, values: Sequence[ValueComparison], bound: float
) -> FirstDeparture | None:
    """The first of the values that is out of bounds, with what it was computed from."""
    known: dict[str, float] = {}
    for one in values:
        if one.departs(bound):
            [value] = [v for v in (*computed(model), *model.graph.outputs) if v.name == one.name][:1]
            inputs = [InputAgreement(*entry) for entry in upstream(value, known)]
            return FirstDeparture(one.name, one.node, one.found_node, one.relative, inputs)
        known[one.name] = one.relative
    return None


def notes(inside: Sequence[ValueComparison], outputs: Sequence[ValueComparison], bound: float) -> list[str]:
    departs = [any(one.departs(bound) for one in values) for values in (inside, outputs)]
    return [NOT_FUSED] if inside and departs == [False, True] else []
