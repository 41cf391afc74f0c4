"""Finds in-place operators whose effect other nodes see: their result is not all that they change."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import cache

import torch
from torch import fx

__all__ = ["writes_what_others_read"]


def writes_what_others_read(node: fx.Node) -> bool:
    """Whether a later node reads the memory that `node` writes to by another name than its result.

    `y = x[:, 0]; y.add_(1); use(x)`: a rule speaks of y's new value and knows nothing of x's.
    """
    if not is_in_place(node):
        return False
    written = node.args[0]
    return isinstance(written, fx.Node) and any(
        node < user for alias in aliases(base_of(written), node) for user in alias.users
    )


def is_in_place(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and bool(node.args) and writes_first(node.target)


@cache
def writes_first(target: torch._ops.OpOverload) -> bool:
    """Whether an operator writes to its first argument."""
    alias = target._schema.arguments[0].alias_info
    return alias is not None and alias.is_write


def is_view(node: fx.Node) -> bool:
    """Whether a node's result may share the memory of its first argument."""
    if node.target is operator.getitem:  # export takes each result once, and those of a topk are apart
        return isinstance(node.args[0], fx.Node) and is_view(node.args[0])
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    arguments = node.target._schema.arguments
    return bool(arguments) and arguments[0].alias_info is not None


def base_of(node: fx.Node) -> fx.Node:
    while is_view(node) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def aliases(base: fx.Node, writer: fx.Node) -> Iterator[fx.Node]:
    """The base and its views, without those that come out of the writer."""
    yield base
    for user in base.users:
        if user is not writer and is_view(user) and user.args[0] is base:
            yield from aliases(user, writer)
