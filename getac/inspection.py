"""`getac inspect`: what can be removed from a model, what cannot and why, and its quantizers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import networkx as nx
import onnx
import onnx_ir as ir

from getac.axes.analysis import FrozenAxis, Member, PruningClass
from getac.axes.costs import ClassCost, class_costs, layer_macs
from getac.axes.wishes import Wishes, check_globs
from getac.network import network_of
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
    """A pruning class.

    Args:
        role: What its units are called.
        parameters_per_unit: Stored float entries that go with one unit.
        macs_per_unit: Multiply-accumulates per sample that go with one unit.
    """

    name: str
    role: str
    units: int
    parameters_per_unit: int
    macs_per_unit: int
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
        macs: Multiply-accumulates per sample.
        parameters: Entries of all stored float tensors.
        prunable: Those of them that some unit of an open class owns.
        quantizers: Value -> its record.
        refusals: Pass -> what it left as it was; `infer-axes` lists the operators without a rule.
    """

    source: str
    parameters: int
    prunable: int
    macs: int
    classes: Sequence[ClassEntry]
    frozen: Sequence[FrozenEntry]
    quantizers: Mapping[str, Mapping[str, Any]]
    refusals: Mapping[str, Sequence[Refusal]]
    network: nx.DiGraph = field(repr=False)

    def as_json(self) -> str:
        """Everything, the network in networkx's node-link form."""
        content = {one.name: getattr(self, one.name) for one in fields(self)}
        content["network"] = nx.node_link_data(self.network, edges="edges")
        return json.dumps(content, indent=1, default=asdict)


def inspect(
    model: str | os.PathLike[str] | onnx.ModelProto | ir.Model,
    *,
    keep: Sequence[str] = (),
    prune: Sequence[str] = (),
) -> Inspection:
    """Analyses an ONNX model; batch normalisations and quantizers are folded first, as `getac.lower` does.

    Args:
        keep: Globs on parameter names that stay whole.
        prune: Globs on parameter names that are opened where they are frozen for safety.

    Raises:
        BadInputError: The model cannot be read, or a glob matches nothing.
    """
    state = State(load(model).clone())
    Pipeline(analysis_passes(Wishes(tuple(keep), tuple(prune)))).run(state)
    analysis = state.analysis
    assert analysis is not None
    check_globs(analysis, "keep", keep)
    check_globs(analysis, "prune", prune)
    view, costs = analysis.view, class_costs(analysis)
    sizes = {p: analysis.axes[p] for p in analysis.parameters if view.is_float(p) and p in analysis.axes}
    owned = {member.parameter for one in analysis.classes for member in one.members}
    counts = {value: entries([axis.size for axis in axes]) for value, axes in sizes.items()}
    return Inspection(
        source=os.fspath(model) if isinstance(model, str | os.PathLike) else "a model in memory",
        parameters=sum(counts.values()),
        prunable=sum(count for value, count in counts.items() if value in owned),
        macs=sum(layer_macs(analysis).values()),
        classes=[class_entry(one, costs[one.name]) for one in analysis.classes],
        frozen=[frozen_entry(one) for one in analysis.frozen],
        quantizers={str(value.name): quantizer_entry(q) for value, q in state.quantizers.items()},
        refusals=state.refusals,
        network=network_of(analysis, state.quantizers),
    )


def entries(sizes: Sequence[int]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count


def class_entry(one: PruningClass, cost: ClassCost) -> ClassEntry:
    members = member_entries(one.members)
    return ClassEntry(one.name, one.role, one.size, cost.parameters, cost.macs, members)


def frozen_entry(one: FrozenAxis) -> FrozenEntry:
    return FrozenEntry(one.size, one.why.reason, one.why.node, member_entries(one.members))


def member_entries(members: Sequence[Member]) -> list[MemberEntry]:
    return [MemberEntry(member.name, member.dimension, repr(member.axis)) for member in members]
