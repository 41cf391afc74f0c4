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

from getac.analyzing import analyze_onnx
from getac.axes.analysis import FrozenAxis, Member, PruningClass
from getac.axes.meter import Cost, LayerCost
from getac.axes.wishes import Wishes
from getac.onnx_graph.provenance import provenance_of
from getac.onnx_graph.read import load
from getac.onnx_graph.suboptimal import Finding, suboptimal
from getac.opening import prune_warnings
from getac.passes import Refusal
from getac.plans.plan import quantizer_entry

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
        module: Where its parameters lie.
        per_unit: What removing the first unit saves.
        opened: Whether it is open on request alone: removing its units changes statistics over them.
    """

    name: str
    role: str
    module: str
    units: int
    per_unit: Cost
    members: Sequence[MemberEntry]
    opened: bool


@dataclass(frozen=True)
class FrozenEntry:
    """An axis that must stay whole, the node that says so, and what a person can do about it."""

    units: int
    reason: str
    hint: str
    node: str
    members: Sequence[MemberEntry]


@dataclass(frozen=True)
class Inspection:
    """What the dependency analysis found.

    Args:
        total: What the folded network costs, per sample; a tied tensor counts once.
        prunable: The parameters in tensors with an open class.
        layers: Operators that multiply or read stored floats, in execution order.
        quantizers: Value -> its record.
        refusals: Pass -> what it left as it was; `infer-axes` lists the operators without a rule.
        origins: Node that a pass made or changed -> the node of the file that it stands for, and the passes.
        warnings: What came of `prune`: that masked then differs from sliced, or that nothing was opened.
        suboptimal: What a quantized file could have better for onnxruntime; `getac lower` mends it.
    """

    source: str
    total: Cost
    prunable: int
    layers: Sequence[LayerCost]
    classes: Sequence[ClassEntry]
    frozen: Sequence[FrozenEntry]
    quantizers: Mapping[str, Mapping[str, Any]]
    refusals: Mapping[str, Sequence[Refusal]]
    origins: Mapping[str, str]
    warnings: Sequence[str]
    suboptimal: Sequence[Finding]
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
    wishes = Wishes.of(keep, prune)
    original = load(model)
    state, analysis = analyze_onnx(original, wishes)
    opened = {one.name for one in analysis.opened}
    costs = analysis.costs
    return Inspection(
        source=os.fspath(model) if isinstance(model, str | os.PathLike) else "a model in memory",
        total=costs.total,
        prunable=costs.prunable,
        layers=costs.layers,
        classes=[class_entry(one, costs.classes[one.name], one.name in opened) for one in analysis.classes],
        frozen=[frozen_entry(one) for one in analysis.frozen],
        quantizers={str(value.name): quantizer_entry(q) for value, q in state.quantizers.items()},
        refusals=state.refusals,
        origins=touched_nodes(state.model),
        warnings=prune_warnings(analysis, wishes.prune),
        suboptimal=suboptimal(original),
        network=analysis.graph,
    )


def touched_nodes(model: ir.Model) -> dict[str, str]:
    known = {node.name or node.op_type: provenance_of(node) for node in model.graph.all_nodes()}
    return {name: str(origin) for name, origin in known.items() if origin.passes}


def class_entry(one: PruningClass, per_unit: Cost, opened: bool) -> ClassEntry:
    return ClassEntry(one.name, one.role, one.place, one.size, per_unit, member_entries(one.members), opened)


def frozen_entry(one: FrozenAxis) -> FrozenEntry:
    return FrozenEntry(one.size, one.why.reason, one.hint, one.why.node, member_entries(one.members))


def member_entries(members: Sequence[Member]) -> list[MemberEntry]:
    return [MemberEntry(member.name, member.dimension, repr(member.axis)) for member in members]
