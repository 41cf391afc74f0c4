"""Passes and the runner that keeps them honest.

A pass is a frozen dataclass: its fields are its options. It says which facts about the model it needs,
which it gives, and which survive it; the runner checks each claim on the model itself, notices by itself
whether the graph changed, and drops every fact that a change made stale.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Protocol

import onnx_ir as ir

from getac.errors import PassError

if TYPE_CHECKING:
    from getac.axes.analysis import Analysis
    from getac.calibration import CalibrationData
    from getac.choice import Choice
    from getac.onnx_graph.shapes import Shapes
    from getac.quantizer import Quantizer

__all__ = ["Fact", "Pass", "PassRecord", "Pipeline", "Refusal", "State"]


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
        model: The graph that the passes edit in place.
        shapes: Given by `infer-shapes`.
        quantizers: Value -> how it is rounded; the value of an activation, or the initializer of a weight.
        analysis: Given by `infer-axes`.
        choice: Given by `choose-units`.
        calibration: The data to calibrate and verify with.
        bindings: Sizes of symbolic input dimensions that the calibration data settles.
        refusals: Pass name -> what it left alone.
        records: What ran.
    """

    model: ir.Model
    facts: set[Fact] = field(default_factory=set)
    shapes: Shapes | None = None
    quantizers: dict[ir.Value, Quantizer] = field(default_factory=dict)
    analysis: Analysis | None = None
    choice: Choice | None = None
    calibration: CalibrationData | None = None
    bindings: Mapping[str, int] = field(default_factory=dict)
    refusals: dict[str, list[Refusal]] = field(default_factory=dict)
    records: list[PassRecord] = field(default_factory=list)

    def refuse(self, pass_name: str, refusal: Refusal) -> None:
        self.refusals.setdefault(pass_name, []).append(refusal)


class Pass(Protocol):
    """One transformation. Implementations are frozen dataclasses.

    Class attributes:
        name: As on the command line, such as `slice-units`.
        needs: Facts that must hold before.
        gives: Facts that hold after.
        keeps: Facts that survive although the graph changes; all others are dropped then.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Fact]]
    gives: ClassVar[frozenset[Fact]]
    keeps: ClassVar[frozenset[Fact]]

    def run(self, state: State) -> None: ...


@dataclass(frozen=True)
class PassRecord:
    """What the runner saw of one pass: wall time in seconds, and whether the graph changed."""

    name: str
    seconds: float
    changed: bool


Check = Callable[[State], str | None]
"""A predicate of a stage's language: None, or what is wrong."""


@dataclass(frozen=True)
class Pipeline:
    """Passes in order.

    Args:
        passes: What to run.
        language: Fact -> what must be true of a model for which the fact is claimed; None: `stages.LANGUAGE`.
        on_pass: Called with each pass's name before it runs (progress).
    """

    passes: Sequence[Pass]
    language: Mapping[Fact, Check] | None = None
    on_pass: Callable[[str], None] | None = None

    def run(self, state: State) -> State:
        """Runs the passes on the state, in place.

        Raises:
            PassError: A pass ran where what it needs does not hold, or broke what it promised.
            GetacError: A pass refuses the model as a whole.
        """
        for one in self.passes:
            if self.on_pass:
                self.on_pass(one.name)
            self._run(one, state)
        return state

    def _run(self, one: Pass, state: State) -> None:
        missing = one.needs - state.facts
        if missing:
            raise PassError(
                f"the pass {one.name} cannot run here",
                required="; ".join(sorted(fact.value for fact in missing)),
                found=f"after {', '.join(record.name for record in state.records) or 'no pass'}",
                hint="add the pass that gives it before this one",
            )
        before = Snapshot.of(state.model)
        start = time.perf_counter()
        one.run(state)
        changed = not before.same_as(Snapshot.of(state.model))
        state.records.append(PassRecord(one.name, time.perf_counter() - start, changed))
        if changed:
            state.facts &= one.keeps
        state.facts |= one.gives
        self._check(one, state)

    def _check(self, one: Pass, state: State) -> None:
        from getac.stages import LANGUAGE  # the language is written in terms of this module

        language = LANGUAGE if self.language is None else self.language
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
    tensors: tuple[weakref.ref[object], ...]

    @classmethod
    def of(cls, model: ir.Model) -> Snapshot:
        """Nodes, edges and attributes, subgraphs included, and the stored tensors."""
        graph = model.graph
        parts: list[object] = [*graph.inputs, None, *graph.outputs]
        for node in graph.all_nodes():
            parts += [node, node.op_type, *node.inputs, None, *node.outputs, *node.attributes.values()]
        stored = [value for one in model.graphs() for value in one.initializers.values()]
        tensors = (value if value.const_value is None else value.const_value for value in stored)
        return cls((*parts, None, *stored), tuple(map(weakref.ref, tensors)))

    def same_as(self, later: Snapshot) -> bool:
        return (
            len(self.parts) == len(later.parts)
            and all(a is b for a, b in zip(self.parts, later.parts, strict=True))
            and all(a() is b() for a, b in zip(self.tensors, later.tensors, strict=True))
        )
