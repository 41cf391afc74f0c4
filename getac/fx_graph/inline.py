"""Inlines the blocks that export wraps in higher-order operators: they would hide nodes from the analysis.

`torch.no_grad()` and autocast blocks become calls of `wrap_with_set_grad_enabled` and `wrap_with_autocast`
with a submodule.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from torch import fx

from getac.errors import UnsupportedModelError
from getac.fx_graph.aliasing import is_in_place

__all__ = ["inline_blocks"]

WRAPPERS = ("wrap_with_set_grad_enabled", "wrap_with_autocast")


def inline_blocks(module: fx.GraphModule) -> None:
    """Replaces every wrapped block by its nodes; a block without gradients reads what is detached."""
    for node in list(module.graph.nodes):
        if node.op == "call_function" and getattr(node.target, "__name__", "") in WRAPPERS:
            inline(module, node)
    module.graph.eliminate_dead_code()


def inline(module: fx.GraphModule, node: fx.Node) -> None:
    refuse_autocast(node)
    position = next(i for i, arg in enumerate(node.args) if is_block(module, arg))
    block_node, inputs = node.args[position], node.args[position + 1 :]
    assert isinstance(block_node, fx.Node)
    name = str(block_node.target)
    block = module.get_submodule(name)
    assert isinstance(block, fx.GraphModule)
    inline_blocks(block)
    copies: dict[fx.Node, Any] = {}
    with module.graph.inserting_before(node):
        read = without_gradients(module, inputs) if node.args[0] is False else inputs
        given = iter(read)
        detached = {copy: one for copy, one in zip(read, inputs, strict=True) if copy is not one}
        for inner in block.graph.nodes:
            if inner.op == "placeholder":
                copies[inner] = next(given)
            elif inner.op == "output":
                results = fx.node.map_arg(inner.args[0], lambda n: copies[n])
            else:
                copy = module.graph.node_copy(inner, lambda n: copies[n])
                if inner.op == "get_attr":
                    copy.target = f"{name}.{inner.target}"
                copies[inner] = copy
        replace_results(module.graph, node, undetached(results, detached))
    module.graph.erase_node(node)
    if not block_node.users:
        module.graph.erase_node(block_node)
    if not any(str(n.target).startswith(f"{name}.") for n in module.graph.find_nodes(op="get_attr")):
        module.delete_submodule(name)


def refuse_autocast(node: fx.Node) -> None:
    """Without its block, an enabled autocast would be lost, and the numbers would be others."""
    if getattr(node.target, "__name__", "") == "wrap_with_autocast" and node.args[2] is True:
        raise UnsupportedModelError(
            "the model computes in reduced precision by itself",
            where=f"autocast({node.args[0]!r}, {node.args[1]})",
            hint="take torch.autocast out of the model, and run the captured module under it instead",
        )


def is_block(module: fx.GraphModule, arg: Any) -> bool:
    if not isinstance(arg, fx.Node) or arg.op != "get_attr":
        return False
    return isinstance(getattr(module, str(arg.target), None), fx.GraphModule)


def replace_results(graph: fx.Graph, node: fx.Node, results: Sequence[Any]) -> None:
    """Gives every use of the block's results the inlined node."""
    for user in list(node.users):
        if user.target is operator.getitem:
            position = user.args[1]
            assert isinstance(position, int)
            user.replace_all_uses_with(results[position])
            graph.erase_node(user)
        else:
            user.replace_input_with(node, results[0])


def undetached(results: Any, inputs: Mapping[fx.Node, Any]) -> list[Any]:
    """The results of a block, an input itself where the block returns it, written to or not.

    Args:
        inputs: What the block reads in place of an input -> that input.
    """
    results = results if isinstance(results, list | tuple) else [results]
    return [inputs.get(written_to(one), one) for one in results]


def written_to(node: Any) -> Any:
    """The tensor that a chain of in-place calls writes to."""
    while isinstance(node, fx.Node) and is_in_place(node):
        node = node.args[0]
    return node


def without_gradients(module: fx.GraphModule, inputs: Sequence[Any]) -> list[Any]:
    """The inputs, detached where they could have a gradient: numbers that are no buffers."""
    buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)}
    return [detach(module.graph, one) if has_gradient(one, buffers) else one for one in inputs]


def has_gradient(argument: Any, buffers: Set[str]) -> bool:
    value = argument.meta.get("val") if isinstance(argument, fx.Node) else None
    if not isinstance(value, torch.Tensor) or not (value.is_floating_point() or value.is_complex()):
        return False
    return not (argument.op == "get_attr" and argument.target in buffers)


def detach(graph: fx.Graph, argument: fx.Node) -> fx.Node:
    copy = graph.call_function(torch.ops.aten.detach.default, (argument,))
    copy.meta = dict(argument.meta)
    return copy
