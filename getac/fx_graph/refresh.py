"""Keeps the sizes that a graph notes for its values true after slicing."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses import FakeTensor, FakeTensorMode

from getac.fx_graph.view import Result

__all__ = ["refresh_sizes"]

SizesOf = Callable[[Hashable, Tensor], Sequence[Any] | None]
"""Takes a node or a `Result`, and its tensor before; None where the sizes are not known."""


def refresh_sizes(
    module: fx.GraphModule, sizes_of: SizesOf = lambda *_: None, edited: Collection[fx.Node] = ()
) -> None:
    """Notes every value's new shape in `meta["val"]`.

    What has changed and whose new sizes are not known is run on tensors without numbers, which takes long
    where dimensions are symbols. Dynamic dimensions stay dynamic: the inputs keep the symbols of the capture.

    Args:
        sizes_of: The sizes that a value has now.
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
            new = self._renewed(node, sizes_of)
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

    def _renewed(self, node: fx.Node, sizes_of: SizesOf) -> Any:
        """The value with its new sizes; the old one where these are the same."""
        old = node.meta.get("val")
        if node.target is operator.getitem:
            source, position = node.args
            return operator.getitem(self._value(cast(fx.Node, source)), position)
        if isinstance(old, FakeTensor):
            new: Any = self._resized(node, old, sizes_of)
            return self._run(node) if new is None else new
        if isinstance(old, list | tuple) and all(isinstance(one, FakeTensor) for one in old):
            new = [self._resized(Result(node, i), one, sizes_of) for i, one in enumerate(old)]
            if all(one is not None for one in new):
                return old if all(a is b for a, b in zip(new, old, strict=True)) else type(old)(new)
        return self._run(node)

    def _resized(self, value: Hashable, old: FakeTensor, sizes_of: SizesOf) -> FakeTensor | None:
        sizes = sizes_of(value, old)
        if sizes is None:
            return None
        if len(sizes) == old.ndim and all(map(is_same, sizes, old.shape)):
            return old
        strides = strides_like(old, sizes)
        return None if strides is None else self._empty(sizes, strides, old)

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
    """Those of a dense tensor in the memory order of another; None if that order depends on symbols.

    A part of a tensor is noted as if it were alone in memory: what can view the part can view that.
    """
    strides = old.stride()
    if not all(isinstance(one, int) for one in strides):
        return None
    order = sorted(range(old.ndim), key=lambda i: (strides[i], -i))
    if not all(isinstance(sizes[i], int) for i in order[:-1]):
        return None
    result, size = [0] * old.ndim, 1
    for i in order:
        result[i], size = size, size * sizes[i]
    return result
