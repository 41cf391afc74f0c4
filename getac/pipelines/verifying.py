"""`--verify-each`: the program before and after every pass, on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from getac.errors import GetacError, PassError, VerificationError
from getac.onnx_graph.provenance import provenance_of
from getac.pipeline import Effect, Pass, State, Watcher, effect_of
from getac.pipelines.executable import Runnable, runnable
from getac.pipelines.judging import Judge, check_comparable
from getac.units.masking import keeper
from getac.verifying.agreement import Agreement, Batch, KeepMasks, compare_outputs

__all__ = ["Check", "EachVerified"]

REDUCE = "getac opt --reduce FILE writes the smallest part of the model that still departs"


@dataclass(frozen=True)
class Check:
    """How one pass did, by the output that agrees least.

    Args:
        name: The pass.
        effect: What it may do.
        worst: The output that agrees least with the model before; None where nothing is compared.
        bound: What that output is held to.
    """

    name: str
    effect: Effect
    worst: Agreement | None
    bound: str


@dataclass(frozen=True)
class Reference:
    """The program before a pass.

    Args:
        rounded: Whether values are rounded as the records of quantizers say.
        outputs: What it computes.
        records: The names of the values that have a record.
    """

    program: Runnable
    rounded: bool
    outputs: Sequence[Batch]
    records: frozenset[str]


@dataclass
class EachVerified(Watcher):
    """Runs the program before and after each pass, and stops at the first that changes what it may not.

    A pass that says `Effect.REMOVES` is held to the masked model; one that rounds, or uses other kernels, to
    a signal-to-noise ratio; every other to the rounding of floats, and to the same integers. Where quantizers
    are records, noise alone can be asked of the model that rounds; so the model without them is compared,
    too. What `Effect.INTERFACE` does is not compared.

    Args:
        batches: The inputs.

    Raises:
        BadInputError: From the pipeline's run: the inputs are not those of the model, or it computes NaN.
        PassError: The model does not run behind a pass.
        VerificationError: The pass that changes what it may not, and the first value that departs.
    """

    batches: Sequence[Batch]
    checks: list[Check] = field(default_factory=list)
    _references: list[Reference] = field(default_factory=list, init=False)
    _keep: Callable[[], KeepMasks] = field(default=dict, init=False)

    def before(self, one: Pass, state: State) -> None:
        effect = effect_of(one)
        removes = effect is Effect.REMOVES
        self._references = []
        if effect is Effect.INTERFACE:
            return
        exact = effect in (Effect.NONE, Effect.REMOVES) and plain_graph(state)
        for rounded in [True, False] if state.quantizers and exact else [True]:
            program = runnable(state, masked=removes, rounded=rounded)
            outputs = program.outputs(self.batches)
            check_comparable(outputs)
            self._references.append(Reference(program, rounded, outputs, recorded(state)))
        self._keep = dict
        if removes and isinstance(state.program, ir.Model) and state.analysis and state.choice:
            self._keep = keeper(state.model.graph, state.analysis, state.choice)

    def after(self, one: Pass, state: State) -> None:
        checks = [
            self.compare(one, state, reference)
            for reference in self._references
            if reference.rounded or (reference.records == recorded(state) and plain_graph(state))
        ]
        nothing = Check(one.name, effect_of(one), None, effect_of(one).value)
        self.checks.append(next(iter(checks), nothing))  # of the model as it rounds

    def compare(self, one: Pass, state: State, reference: Reference) -> Check:
        effect, program = effect_of(one), runnable(state, rounded=reference.rounded)
        outputs = self.outputs(program, one)
        rounds = reference.rounded and bool(reference.records or state.quantizers)
        judge = Judge.of(effect, reference.program, rounds, self.batches, reference.outputs)
        found = [judge.settled(each) for each in compare_outputs(reference.outputs, outputs)]
        if any(map(judge.departs, found)):
            raise self.departure(one, state, reference, program, judge, found)
        worst = min(found, key=lambda each: (each.finite, each.sqnr_db))
        return Check(one.name, effect, worst, judge.bound(worst))

    def outputs(self, program: Runnable, one: Pass) -> list[Batch]:
        try:
            return program.outputs(self.batches)
        except GetacError as error:
            raise PassError(
                f"after the pass {one.name} the model does not run",
                where=error.where,
                found=f"{error.message}: {error.found}" if error.found else error.message,
            ) from error

    def departure(
        self,
        one: Pass,
        state: State,
        reference: Reference,
        result: Runnable,
        judge: Judge,
        found: Sequence[Agreement],
    ) -> VerificationError:
        worst = min(filter(judge.departs, found), key=lambda each: (each.finite, each.sqnr_db))
        first = reference.program.departure(result, self.batches, judge.departs, self._keep())
        place = str(first or worst.output) + made_by(state, first.value if first else worst.output)
        return VerificationError(
            f"the pass {one.name} changes what the model computes",
            where=f"the first value that departs: {place}",
            required=judge.bound(worst),
            found=f"output {worst.output}: {worst.sqnr_db:.1f} dB, relative difference {worst.relative:.2g}"
            if worst.finite
            else f"output {worst.output} is NaN or infinite where it was not, or has another shape",
            hint=REDUCE if isinstance(state.program, ir.Model) else None,
        )


def recorded(state: State) -> frozenset[str]:
    return frozenset(str(value.name) for value in state.quantizers)


def plain_graph(state: State) -> bool:
    """Whether nothing rounds but the records: no quantizer stands in the graph itself."""
    nodes = state.model.graph if isinstance(state.program, ir.Model) else ()
    return not any("Quant" in node.op_type or node.op_type.startswith("QLinear") for node in nodes)


def made_by(state: State, value: str) -> str:
    """The node that computes a value, with the node of the file that it stands for."""
    nodes = state.model.graph if isinstance(state.program, ir.Model) else ()
    maker = next((node for node in nodes for output in node.outputs if output.name == value), None)
    return f", computed by {maker.op_type} node {provenance_of(maker)}" if maker is not None else ""
