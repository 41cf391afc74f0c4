"""Is the result the model that it should be? Numbers under onnxruntime, with their bounds in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from getac.errors import VerificationError
from getac.runtime import open_session, run
from getac.verifying.differences import Difference, difference

__all__ = [
    "BOUNDS",
    "Agreement",
    "Departure",
    "check_file_format",
    "compare_outputs",
    "first_departure",
    "relative_bound",
]

Array = npt.NDArray[Any]
Batch = Mapping[str, Array]


@dataclass(frozen=True)
class Bounds:
    """The bounds that results are held to.

    Args:
        folded_sqnr: Batch normalisations folded against the model that was read, dB, if that has no
            quantizers; float16 reaches about 60.
        sliced_relative: Sliced against masked: max |a - b| / max |a|, by the coarsest type of the model:
            sums of other lengths round otherwise.
        original_sqnr: The result against a model with quantizers that lost no units, dB: both round alike.
            Where the result rounds activations to fewer bits, the bound is lower by as much.
        kernels_sqnr: Integer kernels against the same graph computed in floats, dB.
        lowered_sqnr: Lowered against sliced, dB: below it the output is mostly noise.
        replayed_sqnr: An activation rounded to the lattice that a plan of another checkpoint gives it, dB,
        replayed_loss: unless a lattice of its own with as many bits does not do better by this many dB.
        quantized_relative: max |a - b| / max |a| that `getac.compare` allows where a model is quantized.
    """

    folded_sqnr: float = 30.0
    sliced_relative: Mapping[ir.DataType, float] = field(
        default_factory=lambda: {
            ir.DataType.BFLOAT16: 3e-2,
            ir.DataType.FLOAT16: 5e-3,
            ir.DataType.FLOAT: 1e-4,
        }
    )
    original_sqnr: float = 20.0
    kernels_sqnr: float = 20.0
    lowered_sqnr: float = 3.0
    replayed_sqnr: float = 10.0
    replayed_loss: float = 6.0
    quantized_relative: float = 0.1


BOUNDS = Bounds()


@dataclass(frozen=True)
class Agreement:
    """How far an output is from the one it should be.

    Args:
        output: The graph output.
        max_abs: max |a - b|.
        relative: max |a - b| / max |a|.
        sqnr_db: Signal to quantization noise, 10 log10(sum a^2 / sum (a - b)^2), at most 200.
        top1: The share of rows whose greatest entry is the same, where the output looks like logits.
        finite: Whether both are finite in the same places.
    """

    output: str
    max_abs: float
    relative: float
    sqnr_db: float
    top1: float | None
    finite: bool


@dataclass(frozen=True)
class Departure:
    """The first value, in the order of the graph, that is not what it should be."""

    value: str
    relative: float

    def __str__(self) -> str:
        return f"{self.value} (relative difference {self.relative:.2g})"


def relative_bound(model: ir.Model) -> float:
    """The bound for slicing: that of the coarsest type that the model computes in."""
    casts = [node for node in model.graph if node.op_type == "Cast"]
    stored = [value for graph in model.graphs() for value in graph.initializers.values()]
    found = {value.dtype for value in [*model.graph.inputs, *stored]}
    found.update(ir.DataType(node.attributes.get_int("to", 0)) for node in casts)
    bounds = (bound for dtype, bound in BOUNDS.sliced_relative.items() if dtype in found)
    return max(bounds, default=BOUNDS.sliced_relative[ir.DataType.FLOAT])


def compare_outputs(expected: Sequence[Batch], found: Sequence[Batch]) -> list[Agreement]:
    return [
        agreement(name, [batch[name] for batch in expected], [batch[name] for batch in found])
        for name in expected[0]
    ]


def agreement(name: str, expected: Sequence[Array], found: Sequence[Array]) -> Agreement:
    """Compares one output over all batches."""
    pairs = zip(expected, found, strict=True)
    total = sum((difference(np.asarray(a), np.asarray(b)) for a, b in pairs), Difference())
    return Agreement(
        output=name,
        max_abs=total.greatest,
        relative=total.relative,
        sqnr_db=total.sqnr_db,
        top1=total.top1,
        finite=total.finite,
    )


def first_departure(
    reference: ir.Model,
    result: ir.Model,
    batch: Batch,
    departs: Callable[[Agreement], bool],
    keep: Mapping[str, Sequence[npt.NDArray[np.bool_]]] | None = None,
) -> Departure | None:
    """The first value that both models compute and that departs.

    Args:
        departs: Which agreements are none.
        keep: Value -> which indices of each dimension of the reference the result still has.
    """
    names = common_values(reference, result)
    expected = run(open_session(reference, outputs=names, optimize=False), batch)
    found = run(open_session(result, outputs=names, optimize=False), batch)
    for name in names:
        a = expected[name]
        for dimension, mask in enumerate((keep or {}).get(name, ())):
            a = np.compress(mask, a, axis=dimension) if mask.size == a.shape[dimension] else a
        one = agreement(name, [a], [found[name]])
        if departs(one):
            return Departure(name, one.relative)
    return None


def common_values(reference: ir.Model, result: ir.Model) -> list[str]:
    """Float values of the reference, in order, that the result computes under the same name."""
    others = {value.name for node in result.graph for value in node.outputs}
    ordered = [value for node in reference.graph for value in node.outputs]
    return [value.name for value in ordered if value.name and value.name in others]


def check_file_format(model: ir.Model) -> None:
    """onnx's own checker with shape inference.

    Raises:
        VerificationError: The model is not a valid ONNX model (a bug of a pass).
    """
    try:
        with TemporaryDirectory(prefix="getac-", ignore_cleanup_errors=True) as folder:
            path = Path(folder, "model.onnx")  # through a file: protobuf ends at 2 GiB
            ir.save(model, path, external_data="weights.bin")
            onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise VerificationError(
            "the result is not a valid ONNX model", found=str(error).splitlines()[0]
        ) from error
