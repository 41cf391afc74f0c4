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
from getac.verifying.dependence import computed_values, sources
from getac.verifying.differences import Difference, difference

__all__ = [
    "BOUNDS",
    "NOT_FUSED",
    "Agreement",
    "Departure",
    "check_file_format",
    "compare_outputs",
    "first_departure",
    "relative_bound",
]

Array = npt.NDArray[Any]
Batch = Mapping[str, Array]
KeepMasks = Mapping[str, Sequence[npt.NDArray[np.bool_]]]


@dataclass(frozen=True)
class Bounds:
    """The bounds that results are held to.

    Args:
        folded_sqnr: Batch normalisations folded against the model that was read, dB, if that has no
            quantizers; float16 reaches about 60.
        sliced_relative: Sliced against masked: max |a - b| / max |a|, by the coarsest type of the model:
            sums of other lengths round otherwise.
        recognized_sqnr: A model that arrived quantized, with its quantizers written back, against itself, dB:
            both round alike, and a value beside a tie goes astray now and then.
        quantized_sqnr: The result against that model, pruned, with its quantizers running, dB. Where the
            result rounds more than the model does, the bound is lower by as much.
        kernels_sqnr: Integer kernels against the same graph computed in floats, dB.
        lowered_sqnr: Lowered against sliced, dB: below it the output is mostly noise.
        replayed_sqnr: An activation rounded to the lattice that a plan of another checkpoint gives it, dB.
            Zoo models whose weights are off by a tenth have 12 dB and more with 8 bits, 5.8 with 4; numbers
            that are six times those of the plan's model fall below.
        replayed_loss: What a lattice of its own must gain there, dB, before the plan is to blame.
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
    recognized_sqnr: float = 40.0
    quantized_sqnr: float = 20.0
    kernels_sqnr: float = 20.0
    lowered_sqnr: float = 3.0
    replayed_sqnr: float = 5.0
    replayed_loss: float = 3.0
    quantized_relative: float = 0.1


BOUNDS = Bounds()

NOT_FUSED = (
    "as they are written the graphs agree: it is onnxruntime's own optimisation that makes the difference"
)
"""What is said where outputs depart under that optimisation, and nothing does without it."""


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
        identical: Of integers and booleans: whether all are the same. None for floats, which round.
    """

    output: str
    max_abs: float
    relative: float
    sqnr_db: float
    top1: float | None
    finite: bool
    identical: bool | None = None


@dataclass(frozen=True)
class Departure:
    """The first value, in the order of the graph, that is not what it should be."""

    value: str
    relative: float

    def __str__(self) -> str:
        return f"{self.value} (relative difference {self.relative:.2g})"


def relative_bound(model: ir.Model, output: str | None = None) -> float:
    """The bound for slicing: that of the coarsest type that the model, or one value, is computed in."""
    nodes, values = sources(model.graph, output)
    stored = {value for one in model.graphs() for value in one.initializers.values()}
    found = {value.dtype for value in values if value in stored or value.is_graph_input()}
    casts = [node for node in nodes if node.op_type == "Cast"]
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
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(expected, found, strict=True)]
    total = sum((difference(a, b) for a, b in pairs), Difference())
    exact = all(a.dtype.kind in "iub" for a, _ in pairs)
    return Agreement(
        output=name,
        max_abs=total.greatest,
        relative=total.relative,
        sqnr_db=total.sqnr_db,
        top1=total.top1,
        finite=total.finite,
        identical=all(np.array_equal(a, b) for a, b in pairs) if exact else None,
    )


def first_departure(
    reference: ir.Model,
    result: ir.Model,
    batches: Sequence[Batch],
    departs: Callable[[Agreement], bool],
    keep: KeepMasks | None = None,
) -> Departure | None:
    """The first value that both models compute and that departs, on the first batch where one does.

    Both run as they are written. None: nothing departs in them, outputs included.

    Args:
        departs: Which agreements are none.
        keep: Value -> which indices of each dimension of the reference the result still has.
    """
    names = common_values(reference, result)
    expected = open_session(reference, outputs=names, optimize=False)
    found = open_session(result, outputs=names, optimize=False)
    for batch in batches:
        a, b = run(expected, batch), run(found, batch)
        comparable = [name for name in names if is_numeric(a[name]) and is_numeric(b[name])]
        agreements = (
            agreement(name, [cut(a[name], (keep or {}).get(name, ()))], [b[name]]) for name in comparable
        )
        departed = next(filter(departs, agreements), None)
        if departed is not None:
            return Departure(departed.output, departed.relative)
    return None


def cut(array: Array, masks: Sequence[npt.NDArray[np.bool_]]) -> Array:
    """What slicing leaves of a value."""
    for dimension, mask in enumerate(masks):
        if mask.size == array.shape[dimension]:
            array = np.compress(mask, array, axis=dimension)
    return array


def is_numeric(array: object) -> bool:
    """Whether it is a tensor of numbers: neither text, nor a sequence or an optional."""
    return isinstance(array, np.ndarray) and array.dtype.kind in "fiubc"


def common_values(reference: ir.Model, result: ir.Model) -> list[str]:
    """Values of the reference, in order, that the result computes under the same name; no weights."""
    others = {value.name for node in result.graph for value in node.outputs}
    others.update(value.name for value in result.graph.outputs)
    ordered = [*computed_values(reference.graph), *reference.graph.outputs]
    return list(dict.fromkeys(value.name for value in ordered if value.name and value.name in others))


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
