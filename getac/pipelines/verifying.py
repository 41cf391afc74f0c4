"""`--verify-each`: the model before and after every pass under onnxruntime, on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from getac.errors import GetacError, PassError, VerificationError
from getac.onnx_graph.provenance import provenance_of
from getac.pipeline import Effect, Pass, State, Watcher
from getac.pipelines.executable import executable, masked_executable
from getac.runtime import open_session, run
from getac.units.masking import keeper
from getac.verifying.agreement import (
    BOUNDS,
    Agreement,
    Batch,
    compare_outputs,
    first_departure,
    relative_bound,
)
from getac.verifying.verification import KeepMasks

__all__ = ["Check", "EachVerified", "effect_of"]


def effect_of(one: Pass) -> Effect:
    """What a pass says of itself; one that says nothing keeps the function."""
    return getattr(one, "effect", Effect.NONE)


@dataclass(frozen=True)
class Check:
    """How one pass did, by the output that agrees least.

    Args:
        name: The pass.
        effect: What it may do.
        worst: The output that agrees least with the model before.
        bound: What that output is held to.
    """

    name: str
    effect: Effect
    worst: Agreement
    bound: str


@dataclass
class EachVerified(Watcher):
    """Runs the model before and after each pass, and stops at the first that changes what it may not.

    A pass that says `Effect.REMOVES` is held to the masked model; one that rounds, or uses other kernels, to
    a signal-to-noise ratio; every other to the rounding of floats.

    Args:
        batches: The inputs.

    Raises:
        VerificationError: From the pipeline's run: the pass, and the first value that departs.
    """

    batches: Sequence[Batch]
    checks: list[Check] = field(default_factory=list)
    _reference: ir.Model | None = field(default=None, init=False)
    _keep: Callable[[], KeepMasks] = field(default=dict, init=False)

    def before(self, one: Pass, state: State) -> None:
        removes = effect_of(one) is Effect.REMOVES
        self._reference = masked_executable(state) if removes else executable(state)
        if removes and state.analysis is not None and state.choice is not None:
            self._keep = keeper(state.model.graph, state.analysis, state.choice)
        else:
            self._keep = dict

    def after(self, one: Pass, state: State) -> None:
        if not self.batches:
            return
        reference, result = self._reference, executable(state)
        assert reference is not None
        found = compare_outputs(self.outputs(reference, one), self.outputs(result, one))
        departs, bound = judge(effect_of(one), reference, bool(state.quantizers))
        worst = min(found, key=lambda agreement: (agreement.finite, agreement.sqnr_db))
        self.checks.append(Check(one.name, effect_of(one), worst, bound))
        if any(map(departs, found)):
            raise self.departure(one, state, reference, result, departs, worst, bound)

    def outputs(self, model: ir.Model, one: Pass) -> list[Batch]:
        """Every output on every batch, without onnxruntime's rewrites, which are not on trial."""
        try:
            session = open_session(model, optimize=False)
            return [run(session, batch) for batch in self.batches]
        except GetacError as error:
            raise PassError(
                f"around the pass {one.name} the model does not run",
                where=error.where,
                required=error.required,
                found=f"{error.message}: {error.found}" if error.found else error.message,
            ) from error

    def departure(
        self,
        one: Pass,
        state: State,
        reference: ir.Model,
        result: ir.Model,
        departs: Callable[[Agreement], bool],
        worst: Agreement,
        bound: str,
    ) -> VerificationError:
        first = first_departure(reference, result, self.batches[0], departs, self._keep())
        name = first.value if first is not None else worst.output
        maker = next((n for n in state.model.graph for value in n.outputs if value.name == name), None)
        node = f", computed by {maker.op_type} node {provenance_of(maker)}" if maker is not None else ""
        return VerificationError(
            f"the pass {one.name} changes what the model computes",
            where=f"the first value that departs: {first or worst.output}{node}",
            required=bound,
            found=f"output {worst.output}: {worst.sqnr_db:.1f} dB, relative difference {worst.relative:.2g}"
            if worst.finite
            else f"output {worst.output} is NaN or infinite where it was not, or has another shape",
            hint="getac opt --reduce FILE writes the smallest part of the model that still departs",
        )


def judge(effect: Effect, reference: ir.Model, quantized: bool) -> tuple[Callable[[Agreement], bool], str]:
    """What counts as a departure, and the bound in words.

    Behind a quantizer a difference of rounding can become one of a whole step, so that only noise can be
    asked there.
    """
    if effect is Effect.ROUNDS:
        return below(BOUNDS.lowered_sqnr)
    if effect is Effect.KERNELS or quantized:
        return below(BOUNDS.kernels_sqnr)
    bound = relative_bound(reference)
    return (
        lambda one: not one.finite or one.relative > bound,
        f"a relative difference of at most {bound:g}",
    )


def below(bound: float) -> tuple[Callable[[Agreement], bool], str]:
    return (lambda one: not one.finite or one.sqnr_db < bound), f"an SQNR of at least {bound:g} dB"
