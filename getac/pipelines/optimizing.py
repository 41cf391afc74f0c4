"""`getac.optimize`: runs a pipeline, the user's or a part of getac's, on an ONNX model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import onnx
import onnx_ir as ir

from getac.data.batches import open_calibration, some_batches
from getac.data.calibration import CalibrationData, Source
from getac.errors import GetacError, OptionError
from getac.lowering import check_paths, input_files
from getac.onnx_graph.constants import check_weights
from getac.onnx_graph.declared import declare_outputs
from getac.onnx_graph.origin import origin_of
from getac.onnx_graph.provenance import provenance_of
from getac.onnx_graph.read import load
from getac.onnx_graph.shapes import infer_shapes
from getac.onnx_graph.signature import signature_of
from getac.onnx_graph.support import check_supported
from getac.onnx_graph.write import atomic_write_text, write_model
from getac.passes import RemoveDead, WriteQuantizers
from getac.pipeline import Pass, PassRecord, Pipeline, Refusal, State, Watcher
from getac.pipelines.blame import Blame, own_failures
from getac.pipelines.providers import standard_provider
from getac.pipelines.reducing import reduce_model
from getac.pipelines.registry import make_passes
from getac.pipelines.verifying import Check, EachVerified
from getac.verifying.agreement import Batch, check_file_format

__all__ = ["Optimized", "Reduced", "optimize", "reduce_failure"]

VERIFIED = 2  # batches of the data, or generated samples
CHOICES = 8  # as often, where inputs choose among branches: each is to be taken


@dataclass(frozen=True)
class Optimized:
    """What a pipeline made of a model.

    Args:
        model: The result; quantizers that were still records are written as Q/DQ.
        passes: What ran, in order, the passes among them that the pipeline added by itself.
        refusals: Pass -> what it left as it was, and why.
        checks: With `verify_each`: how each pass did.
        origins: Node of the result -> the node that was read which it stands for, and the passes between.
        state: What is known about the result.
    """

    model: ir.Model
    passes: Sequence[PassRecord]
    refusals: Mapping[str, Sequence[Refusal]]
    checks: Sequence[Check]
    origins: Mapping[str, str]
    state: State = field(repr=False)

    def as_json(self) -> str:
        """Everything but the model."""
        content = {
            "passes": [asdict(one) for one in self.passes],
            "refusals": {name: [asdict(one) for one in many] for name, many in self.refusals.items()},
            "checks": [{**asdict(one), "effect": one.effect.name.lower()} for one in self.checks],
            "origins": dict(self.origins),
        }
        return json.dumps(content, indent=1)


def optimize(
    model: str | os.PathLike[str] | onnx.ModelProto | ir.Model,
    pipeline: str | Sequence[Pass],
    output: str | os.PathLike[str] | None = None,
    *,
    calibration: Source | None = None,
    report: str | os.PathLike[str] | None = None,
    verify_each: bool = False,
    watchers: Sequence[Watcher] = (),
    seed: int = 0,
) -> Optimized:
    """Runs passes on a model in order, checks what each claims, and writes the result.

    Facts that a pass needs and that nobody has made true are provided by the standard pass that gives them.

    Args:
        model: A path, or a model in memory, which is not changed.
        pipeline: Passes, or a text such as "fold-quantizers,infer-axes,slice-units{sparsity=0.3}".
        output: Where to write the result; None writes nothing.
        calibration: Data as for `getac.lower`: for `calibrate`, and for the inputs of `verify_each`.
        report: Where to write what happened as JSON.
        verify_each: Whether to run the model before and after every pass under onnxruntime.
        watchers: What else looks on.
        seed: For the inputs that `verify_each` generates where there is no data.

    Raises:
        BadInputError: The model, the data, the pipeline or the output cannot be used.
        PassError: A pass ran where what it needs does not hold, broke what it promised, or raised anything
            that is no error of getac, which is then the cause of this one.
        VerificationError: With `verify_each`, a pass changed what the model computes. Nothing is written.
    """
    passes = make_passes(pipeline)
    original = load_beside(model, calibration, [path for path in (output, report) if path is not None])
    check_weights(original)
    check_supported(original, compared=verify_each)
    data = open_calibration(original, calibration)
    verifier = EachVerified(batches_for(original, data, seed)) if verify_each else None
    blame = Blame(passes)
    watching = [blame, *([verifier] if verifier is not None else []), *watchers]
    state = State(original.clone(), calibration=data, bindings=data.settle() if data else {})
    with own_failures(blame):
        Pipeline(passes, watchers=watching, provider=standard_provider).run(state)
        if state.quantizers:  # the records are half of the model
            Pipeline((WriteQuantizers(), RemoveDead()), watchers=watching).run(state)
    declare_outputs(state.model)
    check_file_format(state.model)
    checks = verifier.checks if verifier is not None else []
    found = Optimized(state.model, state.records, state.refusals, checks, origins(state.model), state)
    if output is not None:
        write_model(state.model, Path(output))
    if report is not None:
        atomic_write_text(report, found.as_json())
    return found


def load_beside(
    model: str | os.PathLike[str] | onnx.ModelProto | ir.Model,
    calibration: Source | None,
    outputs: Sequence[str | os.PathLike[str]],
) -> ir.Model:
    """Reads a model; outputs that cannot be written, or are an input or each other, are refused."""
    check_paths(input_files(model, calibration), outputs)
    original = load(model)
    check_paths(origin_of(original).files, outputs)
    return original


@dataclass(frozen=True)
class Reduced:
    """A failing pipeline, shrunk.

    Args:
        model: The smallest part that was found on which the pipeline fails in the same way.
        error: How it fails on the whole model.
        part_error: How it fails on the part.
        nodes: The number of nodes before and after.
        tries: How many parts were tried.
    """

    model: ir.Model
    error: GetacError
    part_error: GetacError
    nodes: tuple[int, int]
    tries: int


def reduce_failure(
    model: str | os.PathLike[str] | onnx.ModelProto | ir.Model,
    pipeline: str | Sequence[Pass],
    output: str | os.PathLike[str],
    *,
    verify_each: bool = False,
    calibration: Source | None = None,
    seed: int = 0,
) -> Reduced:
    """Writes the smallest sub-model on which a pipeline fails as it does on the model.

    The failure is the same if it comes out of the same pass, at the same line of its file; of errors that
    getac raises, if it is the same sentence. Parts have other inputs than the model, so they are run on
    generated inputs, and calibrated on these.

    Raises:
        OptionError: The pipeline does not fail.
        GetacError: The model or the output cannot be used.
    """
    passes, whole = make_passes(pipeline), load_beside(model, calibration, [output])
    found = failure(whole, passes, verify_each, calibration, seed)
    if found is None:
        raise OptionError(
            "there is nothing to reduce: the pipeline does not fail",
            hint="--verify-each also finds passes that change what the model computes",
        )
    last = found

    def fails_alike(part: ir.Model) -> bool:
        nonlocal last
        data = None if calibration is None else generated_data(part, seed)
        other = failure(part, passes, verify_each, data, seed)
        alike = other is not None and other.cause == found.cause
        last = other if other is not None and alike else last
        return alike

    part, tries = reduce_model(whole, fails_alike)
    write_model(part, Path(output))
    return Reduced(part, found.error, last.error, (len(whole.graph), len(part.graph)), tries)


@dataclass(frozen=True)
class Failure:
    """How a pipeline fails.

    Args:
        cause: What two failures have in common that are the same: the pass, the kind of the error, and its
            line or sentence.
    """

    error: GetacError
    cause: tuple[str, type, str]


def failure(
    model: ir.Model, passes: Sequence[Pass], verify_each: bool, calibration: Source | None, seed: int
) -> Failure | None:
    """How a pipeline fails on a model; None if it does not."""
    blame = Blame(passes)
    try:
        optimize(model, passes, calibration=calibration, verify_each=verify_each, watchers=[blame], seed=seed)
    except GetacError as error:
        cause = error.__cause__
        foreign = cause is not None and not isinstance(cause, GetacError)
        place = (error.where if foreign else None) or error.message
        return Failure(error, (blame.name, type(cause or error), place))
    return None


def generated_data(model: ir.Model, seed: int) -> Source:
    return dict(batches_for(model, None, seed)[0])


def batches_for(model: ir.Model, data: CalibrationData | None, seed: int) -> list[Batch]:
    """What is run around each pass, or generated to calibrate a part of a model with."""
    if data is not None:
        return some_batches(model, data, {}, seed, VERIFIED)
    sizes = infer_shapes(model).symbols
    chooses = any(one.dtype.kind in "iub" for one in signature_of(model))
    draws = range(seed, seed + (CHOICES if chooses else 1))
    return [one for draw in draws for one in some_batches(model, None, sizes, draw, VERIFIED)]


def origins(model: ir.Model) -> dict[str, str]:
    """Of the nodes that a pass touched."""
    known = {str(node.name): provenance_of(node) for node in model.graph.all_nodes()}
    return {name: str(origin) for name, origin in known.items() if origin.passes}
