"""Makes operators that write in place functional, where nobody can tell the difference.

before   y = relu_(x)
after    y = relu(x)

What an operator of the graph keeps for its backward pass is then never overwritten by a later one: a
quantizer keeps its input, where the layer that it stands in front of may have kept nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from getac.fx_graph.aliasing import base_of, is_in_place, writes_what_others_read

__all__ = ["make_functional"]


WITHOUT_DERIVATIVE = ("aten::copy_", "aten::set_")  # of whose functional twins there is none


def make_functional(graph: fx.Graph) -> None:
    """Replaces in-place calls whose effect is their result alone.

    A write to what others read by another name stays what it is, and so does one to an input, a parameter
    or a buffer, which is seen outside, one of random numbers, and one that would change the result's type.
    """
    for node in graph.nodes:
        if node.op == "call_function" and is_in_place(node) and is_safe(node):
            twin = functional_twin(node.target)
            if twin is not None:
                node.target = twin


def is_safe(node: fx.Node) -> bool:
    written = base_of(node.args[0]) if isinstance(node.args[0], fx.Node) else node
    return (
        written.op == "call_function"
        and torch.Tag.nondeterministic_seeded not in node.target.tags  # type: ignore[union-attr]
        and not writes_what_others_read(node)
        and keeps_type(node)
    )


def keeps_type(node: fx.Node) -> bool:
    """Whether the functional operator promotes its operands to the type that is written to."""
    written = node.args[0].meta["val"].dtype  # type: ignore[union-attr]
    return written.is_floating_point and all(one == written for one in types_read(node))


def types_read(node: fx.Node) -> Iterator[torch.dtype]:
    for argument in node.all_input_nodes:
        value = argument.meta.get("val")
        if isinstance(value, torch.Tensor):
            yield value.dtype


def functional_twin(target: torch._ops.OpOverload) -> torch._ops.OpOverload | None:
    """aten.relu for aten.relu_; None where there is none with the same arguments."""
    namespace, _, name = target._schema.name.partition("::")
    if target._schema.name in WITHOUT_DERIVATIVE:
        return None
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    twin = getattr(packet, target._overloadname, None) if name.endswith("_") else None
    if twin is None:
        return None
    ours, theirs = ([(one.name, str(one.type)) for one in op._schema.arguments] for op in (target, twin))
    return twin if ours == theirs else None
