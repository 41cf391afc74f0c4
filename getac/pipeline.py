"""Passes and the runner that keeps them honest.

A pass is a frozen dataclass: its fields are its options. It says which facts about the model it needs,
which it gives, and which survive it; the runner checks each claim on the model itself, notices by itself
whether the graph changed, and drops every fact that a change made stale.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Protocol

import onnx_ir as ir

from getac.axes.wishes import NO_WISHES, Wishes
from getac.errors import OptionError, PassError
from getac.onnx_graph.provenance import note_changes
from getac.onnx_graph.read_only import seal
from getac.pipelines.results import check_program, checked_result
from getac.pipelines.snapshot import GraphSnapshot, snapshot

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from getac.axes.analysis import Analysis
    from getac.data.calibration import CalibrationData
    from getac.kernel_costs import CostTable
    from getac.onnx_graph.shapes import Shapes
    from getac.quantizer import Quantizer
    from getac.units.choice import Choice
    from getac.verifying.agreement import Batch

__all__ = [
    "Announcer",
    "Effect",
    "Fact",
    "Pass",
    "PassRecord",
    "Pipeline",
    "Refusal",
    "State",
    "Watcher",
    "effect_of",
]


class Fact(Enum):
    """What can be known about a model between passes."""

    QUANTIZERS_FOLDED = "quantizers are records on values"
    BATCH_NORMS_FOLDED = "no batch normalisation follows its own convolution"
    SHAPES = "shapes are inferred"
    AXES = "pruning classes are inferred"
    CHOSEN = "the units to remove are chosen"
    SLICED = "the chosen units are gone"
    CALIBRATED = "activations have quantizers"
    WEIGHTS_QUANTIZED = "weights have quantizers"
    LOWERED = "layers run on integers where they can"


MODULE_FACTS = frozenset({Fact.QUANTIZERS_FOLDED, Fact.SHAPES})
"""What is true of a captured torch.fx module as it stands, whatever a pass does to it."""

DERIVED: Mapping[Fact, frozenset[Fact]] = {Fact.AXES: frozenset({Fact.CHOSEN})}
"""Fact -> what is said in its terms, and no longer true once a pass has established it anew."""


class Effect(Enum):
    """What a pass may do to the function that a model computes, the records of quantizers included."""

    NONE = "the same up to the rounding of floats"
    KERNELS = "the same quantizers, computed by other kernels"
    ROUNDS = "numbers are rounded that were not before"
    REMOVES = "the same as with the chosen units masked"
    INTERFACE = "other inputs or outputs, which cannot be compared"


@dataclass(frozen=True)
class Refusal:
    """Something that a pass left as it is, and why.

    Args:
        where: The node or value.
        reason: Why the pass did not apply.
        hint: What would make it apply, if anything.
    """

    where: str
    reason: str
    hint: str = ""


@dataclass
class State:
    """A model on its way through a pipeline, with what is known about it.

    Args:
        program: What the passes edit in place: an ONNX model, or a captured torch.fx module.
        shapes: Given by `infer-shapes`.
        quantizers: Value -> how it is rounded; the value of an activation, or the initializer of a weight.
        analysis: Given by `infer-axes`.
        wishes: What that analysis was asked to keep and to open.
        choice: Given by `choose-units`.
        calibration: The data to calibrate and verify with.
        bindings: Sizes of symbolic input dimensions that the calibration data settles.
        costs: What kernels take, for choices that depend on it; None: the table that ships with getac.
        floats: Layers that could run on integers and shall not -> why; given by `choose-strategies`.
        planned: Activation -> its lattice, if integer kernels will read or write it; by name, as a plan says
            (`replay-quantizers`).
        refusals: Pass name -> what it left alone.
        records: What ran.
        running: The name of the pass that runs.
        lost: Fact that held -> the pass after which it did not.
    """

    program: ir.Model | GraphModule
    facts: set[Fact] = field(default_factory=set)
    shapes: Shapes | None = None
    quantizers: dict[ir.Value, Quantizer] = field(default_factory=dict)
    analysis: Analysis | None = None
    wishes: Wishes = NO_WISHES
    choice: Choice | None = None
    calibration: CalibrationData | None = None
    bindings: Mapping[str, int] = field(default_factory=dict)
    costs: CostTable | None = None
    floats: Mapping[ir.Node, str] = field(default_factory=dict)
    planned: Mapping[str, Quantizer] = field(default_factory=dict)
    refusals: dict[str, list[Refusal]] = field(default_factory=dict)
    records: list[PassRecord] = field(default_factory=list)
    running: str = ""
    lost: dict[Fact, str] = field(default_factory=dict)

    @classmethod
    def of_module(cls, module: GraphModule) -> State:
        """The state of a captured module: its quantizers are records, and its shapes known, as it stands."""
        return cls(module, facts=set(MODULE_FACTS))

    @property
    def model(self) -> ir.Model:
        """The ONNX model; raises PassError where a torch.fx module is on its way."""
        if not isinstance(self.program, ir.Model):
            who = f"the pass {self.running}" if self.running else "this"
            raise PassError(f"{who} edits ONNX models", found="a torch.fx module")
        return self.program

    @property
    def module(self) -> GraphModule:
        """The torch.fx module; raises PassError where an ONNX model is on its way."""
        if isinstance(self.program, ir.Model):
            raise PassError(f"the pass {self.running} edits torch.fx modules", found="an ONNX model")
        return self.program

    @property
    def calibrates(self) -> bool:
        """Whether activations without a quantizer can get one, from data or from a plan."""
        return self.calibration is not None or bool(self.planned)

    def dtype_of(self, value: ir.Value) -> ir.DataType:
        """The element type of a value, float32 where nothing says it."""
        inferred = self.shapes.dtypes if self.shapes is not None else {}
        return value.dtype or inferred.get(value, ir.DataType.FLOAT)

    def refuse(self, pass_name: str, refusal: Refusal) -> None:
        self.refusals.setdefault(pass_name, []).append(refusal)


class Pass(Protocol):
    """One transformation. Implementations are frozen dataclasses.

    Class attributes:
        name: As on the command line, such as `slice-units`.
        needs: Facts that must hold before.
        gives: Facts that hold after.
        keeps: Facts that survive although the graph changes; all others are dropped then.
        effect: What may become of the function, `Effect.NONE` if it is not said; `--verify-each` asks it.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Fact]]
    gives: ClassVar[frozenset[Fact]]
    keeps: ClassVar[frozenset[Fact]]

    def run(self, state: State) -> None: ...


def effect_of(one: Pass) -> Effect:
    """What a pass says of itself; one that says nothing keeps the function.

    Raises:
        PassError: What it says is no `Effect`.
    """
    effect = getattr(one, "effect", Effect.NONE)
    if not isinstance(effect, Effect):
        required = ", ".join(f"Effect.{each.name}" for each in Effect)
        raise PassError(f"the pass {one.name} has an unknown effect", required=required, found=repr(effect))
    return effect


@dataclass(frozen=True)
class PassRecord:
    """What the runner saw of one pass: wall time in seconds, and whether the graph changed.

    Args:
        added: Whether the pipeline ran it by itself, because a later pass needs what it gives.
    """

    name: str
    seconds: float
    changed: bool
    added: bool = False


class Watcher:
    """Sees a pipeline run; the methods of this base do nothing."""

    def before(self, one: Pass, state: State) -> None:
        """Called before a pass runs."""

    def after(self, one: Pass, state: State) -> None:
        """Called after a pass ran and was checked; `state.records[-1]` is its record."""


@dataclass(frozen=True)
class Announcer(Watcher):
    """Calls back with the name of each pass before it runs (progress)."""

    say: Callable[[str], None]

    def before(self, one: Pass, state: State) -> None:
        self.say(one.name)


def why_lost(state: State, missing: frozenset[Fact]) -> list[str]:
    """What to do about facts that held before."""
    lost = ((fact, state.lost[fact]) for fact in Fact if fact in missing and fact in state.lost)
    return [f"it held until {name}: give it again behind that ({fact.value})" for fact, name in lost]


Check = Callable[[State], str | None]
"""A predicate of a stage's language: None, or what is wrong."""


Provider = Callable[[Fact, "Pass"], "Pass | None"]
"""Gives the pass that makes a fact true which another pass needs; None: the user has to say."""


@dataclass(frozen=True)
class Pipeline:
    """Passes in order.

    Args:
        passes: What to run.
        language: Fact -> what must be true of a model for which the fact is claimed; None: `stages.LANGUAGE`.
        watchers: Called around every pass, in order.
        provider: Asked for the passes that give what a pass needs and what does not hold; None: an error.
        verify: Inputs on which the model is run before and after every pass under onnxruntime; the first
            pass that changes what it may not is an error that names the value (`getac opt --verify-each`).
    """

    passes: Sequence[Pass]
    language: Mapping[Fact, Check] | None = None
    watchers: Sequence[Watcher] = ()
    provider: Provider | None = None
    verify: Sequence[Batch] | None = None

    def run(self, state: State) -> State:
        """Runs the passes on the state, in place.

        Raises:
            PassError: A pass ran where what it needs does not hold, broke what it promised, or left other
                inputs or outputs, or no model.
            VerificationError: With `verify`: a pass changed what the model computes.
            GetacError: A pass refuses the model as a whole.
        """
        check_program(state.program)
        if self.verify is not None:
            return self._verified(self.verify).run(state)
        for one in self.passes:
            self._provide(one, state)
            self._run(one, state)
        return state

    def _verified(self, batches: Sequence[Batch]) -> Pipeline:
        from getac.pipelines.verifying import EachVerified  # it watches pipelines

        if not batches or isinstance(batches, Mapping):
            raise OptionError(
                "there is nothing to verify a pipeline on",
                required="a list of batches, each of them input -> array",
                found=f"verify={type(batches).__name__} of {len(batches)}",
            )
        return replace(self, watchers=[EachVerified(batches), *self.watchers], verify=None)

    def _provide(self, one: Pass, state: State) -> None:
        """Runs what gives the facts that a pass needs and that do not hold, in the order of the facts."""
        for fact in Fact:
            if self.provider is None or fact not in one.needs - state.facts:
                continue
            provided = self.provider(fact, one)
            if provided is not None:
                self._provide(provided, state)
                self._run(provided, state, added=True)

    def _run(self, one: Pass, state: State, added: bool = False) -> None:
        if isinstance(state.program, ir.Model):
            seal(state.program)
        for watcher in self.watchers:
            watcher.before(one, state)
        self._run_checked(one, state, added)
        for watcher in self.watchers:
            watcher.after(one, state)

    def _run_checked(self, one: Pass, state: State, added: bool) -> None:
        missing = one.needs - state.facts
        if missing:
            raise PassError(
                f"the pass {one.name} cannot run here",
                required="; ".join(sorted(fact.value for fact in missing)),
                found=f"after {', '.join(record.name for record in state.records) or 'no pass'}",
                hint="; ".join(why_lost(state, missing)) or "add the pass that gives it before this one",
            )
        before = snapshot(state.program)
        state.running, start = one.name, time.perf_counter()
        returned: object = one.run(state)  # type: ignore[func-returns-value]  # anybody's pass
        if returned is not None:
            raise PassError(
                f"the pass {one.name} returned something, which nobody takes",
                required="edits of state.program, or another model put there",
                found=type(returned).__name__,
                hint="state.program = model",
            )
        later = checked_result(state.program, before, one.name, effect_of(one) is Effect.INTERFACE)
        changed = not before.same_as(later)
        state.records.append(PassRecord(one.name, time.perf_counter() - start, changed, added))
        known = set(state.facts)
        if changed:
            state.facts &= one.keeps | (frozenset() if isinstance(state.program, ir.Model) else MODULE_FACTS)
        if isinstance(before, GraphSnapshot) and changed:
            note_changes(before.nodes, state.model.graph, one.name)
        for fact in one.gives:
            state.facts -= DERIVED.get(fact, frozenset())
        state.facts |= one.gives
        state.lost.update(dict.fromkeys(known - state.facts, one.name))
        self._check(one, state)

    def _check(self, one: Pass, state: State) -> None:
        from getac.stages import LANGUAGE, MODULE_LANGUAGE  # they are written in terms of this module

        standard = LANGUAGE if isinstance(state.program, ir.Model) else MODULE_LANGUAGE
        language = standard if self.language is None else self.language
        for fact in sorted(state.facts, key=lambda fact: fact.name):
            check = language.get(fact)
            problem = check(state) if check else None
            if problem:
                raise PassError(
                    f"the pass {one.name} left a model of which this is not true: {fact.value}",
                    found=problem,
                    hint="this is a bug of the pass; please report it with the model's structure",
                )
