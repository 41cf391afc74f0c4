"""Keeps the sizes that a graph notes for its values true after slicing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses import FakeTensor, FakeTensorMode

__all__ = ["refresh_sizes"]

SizesOf = Callable[[fx.Node], Sequence[Any] | None]


def refresh_sizes(
    module: fx.GraphModule, sizes_of: SizesOf = lambda _: None, edited: Collection[fx.Node] = ()
) -> None:
    """Notes every value's new shape in `meta["val"]`.

    What has changed and whose new sizes are not known is run on tensors without numbers. Dynamic dimensions
    stay dynamic: the inputs keep the symbols of the capture.

    Args:
        sizes_of: The sizes that a node's value has now; None where they are not known.
        edited: The nodes whose arguments were rewritten.
    """
    inputs = [node.meta.get("val") for node in module.graph.nodes if node.op == "placeholder"]
    fakes = [value for value in inputs if isinstance(value, FakeTensor)]
    refresher = Refresher(module, fakes[0].fake_mode if fakes else FakeTensorMode(), set(edited))
    for node in module.graph.nodes:
        refresher.visit(node, sizes_of)


class Refresher:
    """Goes through a graph in order.

    Args:
        touched: Nodes whose values have changed, or may have.
    """

    def __init__(self, module: fx.GraphModule, mode: FakeTensorMode, touched: set[fx.Node]) -> None:
        self._module, self._mode, self._touched = module, mode, touched

    def visit(self, node: fx.Node, sizes_of: SizesOf) -> None:
        if node.op == "get_attr":
            self._visit_stored(node)
        elif node.op == "call_function" and not self._touched.isdisjoint([node, *node.all_input_nodes]):
            new = self._renewed(node, sizes_of(node))
            if new is not node.meta.get("val"):
                self._touched.add(node)
                self._note(node, new)
            else:
                self._touched.discard(node)

    def _visit_stored(self, node: fx.Node) -> None:
        stored, known = attribute(self._module, str(node.target)), node.meta.get("val")
        if isinstance(stored, Tensor) and (not isinstance(known, Tensor) or known.shape != stored.shape):
            self._touched.add(node)
            self._note(node, self._empty(tuple(stored.shape), stored.stride(), stored))

    def _note(self, node: fx.Node, value: Any) -> None:
        if "val" in node.meta:
            node.meta["val"] = value

    def _renewed(self, node: fx.Node, sizes: Sequence[Any] | None) -> Any:
        """The value with its new sizes; the old one where these are the same."""
        old = node.meta.get("val")
        if sizes is not None and isinstance(old, FakeTensor):
            if len(sizes) == old.ndim and all(map(is_same, sizes, old.shape)):
                return old
            strides = strides_like(old, sizes)
            if strides is not None:
                return self._empty(sizes, strides, old)
        return self._run(node)

    def _empty(self, sizes: Sequence[Any], strides: Sequence[Any], like: Tensor) -> FakeTensor:
        empty = torch.empty_strided(tuple(sizes), tuple(strides), dtype=like.dtype, device="meta")
        return FakeTensor(self._mode, empty, like.device)

    def _run(self, node: fx.Node) -> Any:
        with ExitStack() as stack:
            for one in (self._mode, enable_python_dispatcher(), torch.no_grad()):
                stack.enter_context(one)  # lstm has no kernel for symbolic sizes
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._value)
            return node.target(*args, **kwargs)  # type: ignore[operator]

    def _value(self, node: fx.Node) -> Any:
        if "val" in node.meta:
            return node.meta["val"]
        if node.op == "get_attr":
            return attribute(self._module, str(node.target))
        return self._run(node)  # what is computed with the training flag alone notes no value


def attribute(module: fx.GraphModule, path: str) -> Any:
    owner: Any = module
    for name in path.split("."):
        owner = getattr(owner, name)
    return owner


def is_same(one: Any, other: Any) -> bool:
    """Of two sizes, each a number or a symbol."""
    return one is other or (isinstance(one, int) and isinstance(other, int) and one == other)


def strides_like(old: Tensor, sizes: Sequence[Any]) -> list[int] | None:
    """Those of a dense tensor in the memory order of another; None if that one is not dense, or a symbol."""
    strides = old.stride()
    if not all(isinstance(one, int) for one in strides):
        return None
    order = sorted(range(old.ndim), key=lambda i: (strides[i], -i))
    result, before, after = [0] * old.ndim, 1, 1
    for position, i in enumerate(order):
        if strides[i] != before:
            return None
        result[i] = after
        if position + 1 < len(order):
            if not (isinstance(old.shape[i], int) and isinstance(sizes[i], int)):
                return None
            before, after = before * old.shape[i], after * sizes[i]
    return result
