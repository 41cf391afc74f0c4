"""Writes an argument of a call by the name that the operator's schema has for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

__all__ = ["set_argument"]


def set_argument(node: fx.Node, name: str, value: Any) -> None:
    """Sets an argument where it stands: among the positional ones, or by keyword."""
    if not isinstance(node.target, torch._ops.OpOverload):
        node.update_arg(int(name.removeprefix("arg")), value)  # one of Python's operators
        return
    names = [argument.name for argument in node.target._schema.arguments]
    position = names.index(name)
    if position < len(node.args):
        node.update_arg(position, value)
    else:
        node.update_kwarg(name, value)
