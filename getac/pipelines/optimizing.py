"""`getac.optimize`: runs a pipeline, the user's or a part of getac's, on an ONNX model."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import onnx
import onnx_ir as ir

from getac.data.batches import open_calibration
from getac.data.calibration import CalibrationData, Source, generate_inputs
from getac.errors import GetacError, OptionError, PassError
from getac.onnx_graph.constants import check_weights
from getac.onnx_graph.declared import declare_outputs
from getac.onnx_graph.origin import origin_of
from getac.onnx_graph.provenance import provenance_of
from getac.onnx_graph.read import load
from getac.onnx_graph.signature import batch_symbols, signature_of
from getac.onnx_graph.support import check_supported
from getac.onnx_graph.write import check_output, write_model
from getac.passes import RemoveDead, WriteQuantizers
from getac.pipeline import Pass, PassRecord, Pipeline, Refusal, State, Watcher
from getac.pipelines.providers import standard_provider
from getac.pipelines.reducing import reduce_model
from getac.pipelines.registry import make_passes
from getac.pipelines.verifying import Check, EachVerified
from getac.verifying.agreement import Batch, check_file_format

__all__ = ["Optimized", "Reduced", "optimize", "reduce_failure"]

VERIFIED_BATCHES = 2
GENERATED_SAMPLES = 2


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
    original = load(model)
    if output is not None:
        read = [model] if isinstance(model, str | os.PathLike) else []
        check_output(output, [*read, *origin_of(original).files])
    check_weights(original)
    check_supported(original)
    data = open_calibration(original, calibration)
    verifier = EachVerified(batches_for(original, data, seed)) if verify_each else None
    watching = [*([verifier] if verifier is not None else []), *watchers]
    state = State(original.clone(), calibration=data, bindings=data.settle() if data else {})
    with own_failures(state):
        Pipeline(passes, watchers=watching, provider=standard_provider).run(state)
    if state.quantizers:  # the records are half of the model
        Pipeline((WriteQuantizers(), RemoveDead()), watchers=watching).run(state)
    declare_outputs(state.model)
    check_file_format(state.model)
    if output is not None:
        write_model(state.model, Path(output))
    checks = verifier.checks if verifier is not None else []
    return Optimized(state.model, state.records, state.refusals, checks, origins(state.model), state)


@contextmanager
def own_failures(state: State) -> Iterator[None]:
    """Whatever a pass raises that is no error of getac becomes one that names the pass and the place."""
    try:
        yield
    except GetacError:
        raise
    except Exception as error:  # a pass is anybody's code
        *_, last = traceback.extract_tb(error.__traceback__)
        raise PassError(
            f"the pass {state.running} failed",
            where=f"{last.filename}, line {last.lineno}, in {last.name}",
            found=f"{type(error).__name__}: {error}",
            hint="GETAC_DEBUG=1 shows the traceback",
        ) from error


@dataclass(frozen=True)
class Reduced:
    """A failing pipeline, shrunk.

    Args:
        model: The smallest part that was found on which the pipeline fails in the same way.
        error: How it fails on the whole model.
        nodes: The number of nodes before and after.
        tries: How many parts were tried.
    """

    model: ir.Model
    error: GetacError
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

    The failure is the same if it is an error of the same kind out of the same pass. Parts have other inputs
    than the model, so they are run on generated inputs, and calibrated on these.

    Raises:
        OptionError: The pipeline does not fail.
        GetacError: The model or the output cannot be used.
    """
    passes, whole = make_passes(pipeline), load(model)
    check_output(
        output, [*([model] if isinstance(model, str | os.PathLike) else []), *origin_of(whole).files]
    )
    found = failure(whole, passes, verify_each, calibration, seed)
    if found is None:
        raise OptionError(
            "there is nothing to reduce: the pipeline does not fail",
            hint="--verify-each also finds passes that change what the model computes",
        )
    error, kind = found

    def fails_alike(part: ir.Model) -> bool:
        data = None if calibration is None else generated_data(part, seed)
        other = failure(part, passes, verify_each, data, seed)
        return other is not None and other[1] == kind

    part, tries = reduce_model(whole, fails_alike)
    write_model(part, Path(output))
    return Reduced(part, error, (len(whole.graph), len(part.graph)), tries)


def failure(
    model: ir.Model, passes: Sequence[Pass], verify_each: bool, calibration: Source | None, seed: int
) -> tuple[GetacError, tuple[str, type]] | None:
    """How a pipeline fails on a model, with the pass and the kind of the error; None if it does not."""
    blame = Blame()
    try:
        optimize(model, passes, calibration=calibration, verify_each=verify_each, watchers=[blame], seed=seed)
    except GetacError as error:
        return error, (blame.name, type(error.__cause__ or error))
    return None


@dataclass
class Blame(Watcher):
    """Remembers which pass ran last."""

    name: str = ""

    def before(self, one: Pass, state: State) -> None:
        self.name = one.name


def generated_data(model: ir.Model, seed: int) -> Source:
    return dict(batches_for(model, None, seed)[0])


def batches_for(model: ir.Model, data: CalibrationData | None, seed: int) -> list[Batch]:
    """The first batches of the data, or random inputs of sizes at which the model runs."""
    if data is not None:
        return list(islice(data, VERIFIED_BATCHES))
    from getac.onnx_graph.shapes import infer_shapes

    signature = signature_of(model)
    sizes = infer_shapes(model).symbols
    fixed = {name: size for name, size in sizes.items() if name not in batch_symbols(signature)}
    return [generate_inputs(signature, fixed, seed, batch=GENERATED_SAMPLES)]


def origins(model: ir.Model) -> dict[str, str]:
    """Of the nodes that a pass touched."""
    known = {str(node.name): provenance_of(node) for node in model.graph.all_nodes()}
    return {name: str(origin) for name, origin in known.items() if origin.passes}
