"""`getac inspect`: what can be removed from a model, what cannot and why, and its quantizers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx
import onnx_ir as ir

from getac.axes.analysis import FrozenAxis, Member, PruningClass
from getac.onnx_graph.read import load
from getac.passes import Pipeline, Refusal, State, analysis_passes
from getac.plan import quantizer_entry

__all__ = ["ClassEntry", "FrozenEntry", "Inspection", "MemberEntry", "inspect"]


@dataclass(frozen=True)
class MemberEntry:
    """A dimension of a stored tensor; `type` shows how the dimension is made of atoms ("!": frozen)."""

    parameter: str
    dimension: int
    type: str


@dataclass(frozen=True)
class ClassEntry:
    """A pruning class."""

    name: str
    units: int
    members: Sequence[MemberEntry]


@dataclass(frozen=True)
class FrozenEntry:
    """An axis that must stay whole, and the node that says so."""

    units: int
    reason: str
    node: str
    members: Sequence[MemberEntry]


@dataclass(frozen=True)
class Inspection:
    """What the dependency analysis found.

    Args:
        parameters: Entries of all stored float tensors.
        prunable: Those of them that some unit of an open class owns.
        quantizers: Value -> its record.
        refusals: Pass -> what it left as it was; `infer-axes` lists the operators without a rule.
    """

    source: str
    parameters: int
    prunable: int
    classes: Sequence[ClassEntry]
    frozen: Sequence[FrozenEntry]
    quantizers: Mapping[str, Mapping[str, Any]]
    refusals: Mapping[str, Sequence[Refusal]]

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def inspect(model: str | os.PathLike[str] | onnx.ModelProto | ir.Model) -> Inspection:
    """Analyses a model; batch normalisations and quantizers are folded first, as `getac.lower` does.

    Raises:
        BadInputError: The model cannot be read.
    """
    state = State(load(model).clone())
    Pipeline(analysis_passes()).run(state)
    analysis = state.analysis
    assert analysis is not None
    view = analysis.view
    sizes = {p: analysis.axes[p] for p in analysis.parameters if view.is_float(p) and p in analysis.axes}
    owned = {member.parameter for one in analysis.classes for member in one.members}
    counts = {value: entries([axis.size for axis in axes]) for value, axes in sizes.items()}
    return Inspection(
        source=os.fspath(model) if isinstance(model, str | os.PathLike) else "a model in memory",
        parameters=sum(counts.values()),
        prunable=sum(count for value, count in counts.items() if value in owned),
        classes=[class_entry(one) for one in analysis.classes],
        frozen=[frozen_entry(one) for one in analysis.frozen],
        quantizers={str(value.name): quantizer_entry(q) for value, q in state.quantizers.items()},
        refusals=state.refusals,
    )


def entries(sizes: Sequence[int]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count


def class_entry(one: PruningClass) -> ClassEntry:
    return ClassEntry(one.name, one.size, member_entries(one.members))


def frozen_entry(one: FrozenAxis) -> FrozenEntry:
    return FrozenEntry(one.size, one.why.reason, one.why.node, member_entries(one.members))


def member_entries(members: Sequence[Member]) -> list[MemberEntry]:
    return [MemberEntry(member.name, member.dimension, repr(member.axis)) for member in members]
