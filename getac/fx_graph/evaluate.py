"""Calls one operator of a graph on given numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import fx

from getac.view import Array

__all__ = ["evaluate"]


def evaluate(node: fx.Node, operands: Mapping[fx.Node, Array]) -> Array:
    """The operator's result, with the given numbers in place of some of its tensors, zeros for the others.

    Numbers are cast to the type that the graph has there: masks stay masks.
    """
    given = {operand: as_tensor(operand, array) for operand, array in operands.items()}
    args, kwargs = fx.node.map_arg(
        (node.args, dict(node.kwargs)), lambda n: given[n] if n in given else placeholder(n)
    )
    assert callable(node.target)
    with torch.no_grad():
        result = node.target(*args, **kwargs)
    first = result[0] if isinstance(result, list | tuple) else result
    return np.asarray(real(torch.as_tensor(first)).to(torch.float64).numpy())


def real(result: torch.Tensor) -> torch.Tensor:
    """The result as real numbers, NaN where it is none."""
    return torch.where(result.imag == 0, result.real, torch.nan) if result.is_complex() else result


def as_tensor(operand: fx.Node, array: Array) -> torch.Tensor:
    tensor = torch.tensor(array, dtype=torch.float32)
    value = operand.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.is_floating_point():
        return tensor
    return tensor != 0 if value.dtype == torch.bool else tensor.to(value.dtype)


def placeholder(node: fx.Node) -> Any:
    """A number for what is no operand: the example's for a size, the evaluation mode's for a flag."""
    value = node.meta.get("val")
    if isinstance(value, torch.SymInt | torch.SymFloat):
        return value.node.hint if value.node.has_hint() else 1
    if isinstance(value, torch.Tensor):
        return torch.zeros((), dtype=value.dtype)
    if isinstance(value, int | float):
        return value
    return flag(node)


def flag(node: fx.Node) -> Any:
    """What is computed from the training flag alone, in evaluation mode."""
    if node.op == "get_attr":
        return False
    assert callable(node.target)
    return node.target(*fx.node.map_arg(node.args, flag))
