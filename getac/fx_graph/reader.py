"""Reads the arguments of an aten call by the names of its schema, defaults filled in."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import fx

__all__ = ["CallReader", "NotConstant", "operator_name"]


class NotConstant(Exception):
    """An argument that the rule needs is computed when the graph runs, or is of a kind without a rule."""


def operator_name(node: fx.Node) -> str:
    """`aten.conv2d` for a call of an operator, else the name of the function."""
    return target_name(node.target)


@cache
def target_name(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return f"{target.namespace}.{target._schema.name.split('::')[1]}"
    return getattr(target, "__name__", str(target))


@cache
def schema_defaults(target: torch._ops.OpOverload) -> dict[str, Any]:
    """Argument -> its default (None where there is none), in the order of the schema."""
    return {argument.name: argument.default_value for argument in target._schema.arguments}


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """Every argument under its schema name."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {f"arg{i}": value for i, value in enumerate(node.args)} | dict(node.kwargs)
    defaults = schema_defaults(node.target)
    return {**defaults, **dict(zip(defaults, node.args, strict=False)), **node.kwargs}


class CallReader:
    """One call of an operator."""

    def __init__(self, node: fx.Node) -> None:
        self.node = node
        self.arguments = arguments_of(node)

    def get(self, name: str, default: Any = None) -> Any:
        return self.arguments.get(name, default)

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.get(name, default)
        if not isinstance(value, int):
            raise NotConstant(f"{name} is computed when the graph runs")
        return value

    def real(self, name: str, default: float) -> float:
        value = self.get(name, default)
        if not isinstance(value, int | float):
            raise NotConstant(f"{name} is computed when the graph runs")
        return float(value)

    def integers(self, name: str) -> tuple[int, ...]:
        value = self.get(name)
        values = tuple(value) if isinstance(value, list | tuple) else (value,)
        if not all(isinstance(number, int) for number in values):
            raise NotConstant(f"{name} is computed when the graph runs")
        return values

    def optional_integers(self, name: str) -> tuple[int, ...] | None:
        value = self.get(name)
        return None if value is None or value == [] else self.integers(name)

    def flag(self, name: str) -> bool:
        return bool(self.get(name))

    def tensors(self, name: str) -> list[fx.Node]:
        """The nodes in a list of tensors."""
        return [node for node in self.get(name) if isinstance(node, fx.Node)]

    def rank(self, name: str = "self") -> int:
        node = self.get(name)
        value = node.meta.get("val") if isinstance(node, fx.Node) else None
        if not isinstance(value, torch.Tensor):
            raise NotConstant(f"{name} is not a tensor of known rank")
        return value.ndim

    def dimension(self, name: str = "dim", default: int = 0, of: str = "self") -> int:
        """A dimension counted from the front."""
        return self.integer(name, default) % max(self.rank(of), 1)
