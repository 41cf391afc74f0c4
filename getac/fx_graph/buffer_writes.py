"""Makes what a model writes to its buffers follow train() and eval(): running averages, step counters.

The graph was exported in training; `if self.training: self.average.mul_(0.9).add_(...)` is in it without
its condition.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import torch
from torch import fx

from getac.fx_graph.aliasing import base_of, is_in_place
from getac.fx_graph.functional import functional_twin, types_read
from getac.fx_graph.inline import written_to
from getac.fx_graph.training import Flags, is_counter

__all__ = ["copy_instead_of_out", "drop_copies_to_itself", "write_in_training_only"]

aten = torch.ops.aten


def copy_instead_of_out(graph: fx.Graph) -> None:
    """Writes results by `copy_`, which autograd follows.

    before   y = div.out(a, b, out=buffer)
    after    y = copy_(buffer, div(a, b))
    """
    for node in list(graph.nodes):
        if node.op == "call_function" and isinstance(node.kwargs.get("out"), fx.Node):
            twin = twin_without_out(node.target)
            if twin is not None:
                kwargs = {name: value for name, value in node.kwargs.items() if name != "out"}
                with graph.inserting_before(node):
                    result = like(graph.call_function(twin, node.args, kwargs), node)
                node.target, node.args, node.kwargs = aten.copy_.default, (node.kwargs["out"], result), {}


def twin_without_out(target: Any) -> torch._ops.OpOverload | None:
    """aten.div.Tensor for aten.div.out."""
    if not isinstance(target, torch._ops.OpOverload):
        return None
    wanted = [(one.name, str(one.type)) for one in target._schema.arguments if one.name != "out"]
    packet = target.overloadpacket
    for one in (getattr(packet, name) for name in packet.overloads()):
        if [(a.name, str(a.type)) for a in one._schema.arguments] == wanted:
            return one  # type: ignore[no-any-return]
    return None


def drop_copies_to_itself(graph: fx.Graph) -> None:
    """Drops what export adds for `self.steps += 1`: it would count as a write that backward trips over.

    before   y = add_(steps, 1);  copy_(steps, y)
    after    y = add_(steps, 1)
    """
    for node in list(graph.find_nodes(op="call_function", target=aten.copy_.default)):
        written, value = node.args[:2]
        if is_in_place(value) and is_same_attribute(written, written_to(value)):
            node.replace_all_uses_with(node.args[1])
            graph.erase_node(node)


def is_same_attribute(a: Any, b: Any) -> bool:
    return a is b or (a.op == b.op == "get_attr" and a.target == b.target)


def write_in_training_only(module: fx.GraphModule, names: Set[str]) -> None:
    """Lets the named buffers keep their numbers in evaluation.

    before   y = add_(buffer, x)
    after    y = copy_(buffer, where(training, add(buffer, x), buffer))
    """
    flags = Flags(module.graph)
    for node in list(module.graph.nodes):
        if node.op == "call_function" and is_in_place(node) and isinstance(node.args[0], fx.Node):
            base = base_of(node.args[0])
            if base.op == "get_attr" and base.target in names and not is_counter(node.args[0]):
                write_if(module.graph, node, flags)


def write_if(graph: fx.Graph, node: fx.Node, flags: Flags) -> None:
    training, written = flags.training(), node.args[0]
    assert isinstance(written, fx.Node)
    with graph.inserting_before(node):
        if node.target is aten.copy_.default:
            value: Any = node.args[1]
        else:
            assert isinstance(node.target, torch._ops.OpOverload)
            twin = functional_twin(node.target)
            if twin is None:
                return  # the comparison with the model finds it
            value = like(graph.call_function(twin, node.args, node.kwargs), node)
        kind = node.meta["val"].dtype
        if any(one != kind for one in types_read(node)):
            value = like(graph.call_function(aten.to.dtype, (value, kind)), node)
        now = graph.call_function(aten.new_full.default, (written, [], training), {"dtype": torch.bool})
        now.meta["val"] = node.meta["val"].new_full([], True, dtype=torch.bool)
        kept = like(graph.call_function(aten.where.self, (now, value, written)), node)
    node.target, node.args, node.kwargs = aten.copy_.default, (written, kept), {}


def like(node: fx.Node, other: fx.Node) -> fx.Node:
    node.meta = dict(other.meta)
    return node
