"""Passes and the runner that keeps them honest.

A pass is a frozen dataclass: its fields are its options. It says which facts about the model it needs,
which it gives, and which survive it; the runner checks each claim on the model itself, notices by itself
whether the graph changed, and drops every fact that a change made stale.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import onnx_ir as ir

from getac.axes.wishes import NO_WISHES, Wishes
from getac.errors import PassError
from getac.onnx_graph.provenance import Form, forms_of, note_changes, same_form

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from getac.axes.analysis import Analysis
    from getac.data.calibration import CalibrationData
    from getac.kernel_costs import CostTable
    from getac.onnx_graph.shapes import Shapes
    from getac.quantizer import Quantizer
    from getac.units.choice import Choice
    from getac.verifying.agreement import Batch

__all__ = ["Announcer", "Effect", "Fact", "Pass", "PassRecord", "Pipeline", "Refusal", "State", "Watcher"]


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


class Effect(Enum):
    """What a pass may do to the function that a model computes, the records of quantizers included."""

    NONE = "the same up to the rounding of floats"
    KERNELS = "the same quantizers, computed by other kernels"
    ROUNDS = "numbers are rounded that were not before"
    REMOVES = "the same as with the chosen units masked"


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
            PassError: A pass ran where what it needs does not hold, or broke what it promised.
            VerificationError: With `verify`: a pass changed what the model computes.
            GetacError: A pass refuses the model as a whole.
        """
        if self.verify is not None:
            return self._verified(self.verify).run(state)
        for one in self.passes:
            self._provide(one, state)
            self._run(one, state)
        return state

    def _verified(self, batches: Sequence[Batch]) -> Pipeline:
        from getac.pipelines.verifying import EachVerified  # it watches pipelines

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
                hint="add the pass that gives it before this one",
            )
        before = Snapshot.of(state.program)
        state.running, start = one.name, time.perf_counter()
        one.run(state)
        changed = not before.same_as(Snapshot.of(state.program))
        state.records.append(PassRecord(one.name, time.perf_counter() - start, changed, added))
        if changed:
            state.facts &= one.keeps | (frozenset() if isinstance(state.program, ir.Model) else MODULE_FACTS)
            if isinstance(state.program, ir.Model):
                note_changes(before.nodes, state.program.graph, one.name)
        state.facts |= one.gives
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


@dataclass(frozen=True)
class Snapshot:
    """Which objects a graph is made of; compared by identity.

    The parts are kept alive, since a new object may get the `id` of a freed one. Stored tensors are held
    weakly: a pass that replaces weights should not need memory for the old and the new ones.
    """

    parts: tuple[object, ...]
    nodes: Mapping[Any, Form]
    tensors: tuple[weakref.ref[object], ...]

    @classmethod
    def of(cls, program: ir.Model | GraphModule) -> Snapshot:
        """Nodes, edges and attributes, subgraphs included, and the stored tensors."""
        if not isinstance(program, ir.Model):
            return cls.of_module(program)
        graph = program.graph
        stored = [value for one in program.graphs() for value in one.initializers.values()]
        tensors = (value if value.const_value is None else value.const_value for value in stored)
        parts = (*graph.inputs, None, *graph.outputs, None, *stored)
        return cls(parts, forms_of(graph), tuple(map(weakref.ref, tensors)))

    @classmethod
    def of_module(cls, module: GraphModule) -> Snapshot:
        """Nodes and arguments, and the stored tensors: an edit in place raises a tensor's version or swaps
        its data, so that both are part of it."""
        nodes = {node: (node.op, node.target, node.args, node.kwargs) for node in module.graph.nodes}
        stored = dict([*module.named_parameters(), *module.named_buffers()])
        parts = [(name, one.data_ptr(), one._version, tuple(one.shape)) for name, one in stored.items()]
        return cls(tuple(parts), nodes, tuple(map(weakref.ref, stored.values())))

    def same_as(self, later: Snapshot) -> bool:
        same = same_form if isinstance(next(iter(self.nodes), None), ir.Node) else equal_form
        return (
            same(self.parts, later.parts)
            and same_form(tuple(self.nodes), tuple(later.nodes))
            and all(map(same, self.nodes.values(), later.nodes.values()))
            and same_form([one() for one in self.tensors], [one() for one in later.tensors])
        )


def equal_form(one: Sequence[object], other: Sequence[object]) -> bool:
    return one == other
