"""A call of an operator in the normal form of its rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import fx

from getac.fx_graph.reader import CallReader
from getac.rules.base import Rule

__all__ = ["Call", "Maker", "call", "is_tensor", "table", "tensor_arguments"]


@dataclass(frozen=True)
class Call:
    """A call in normal form.

    Args:
        rule: The rule that it follows.
        operands: The tensors (and sizes) that the rule counts as inputs, in its order.
        lists: Rule input -> the schema argument that is a list of integers (or one).
        sites: The rule's name of an argument that is a size -> the schema's.
    """

    rule: Rule
    operands: tuple[fx.Node | None, ...]
    lists: Mapping[int, str] = field(default_factory=dict)
    sites: Mapping[str, str] = field(default_factory=dict)


Maker = Callable[[CallReader], Call]


def call(
    r: CallReader,
    rule: Rule,
    *names: str,
    lists: Mapping[int, str] | None = None,
    sites: Mapping[str, str] | None = None,
) -> Call:
    """A call whose operands are the named arguments; numbers among them are part of the operator."""
    operands = tuple(value if isinstance(value := r.get(name), fx.Node) else None for name in names)
    return Call(rule, operands, lists or {}, sites or {})


def tensor_arguments(r: CallReader) -> tuple[fx.Node | None, ...]:
    """All tensors among the arguments, in the order of the schema."""
    return tuple(value for value in r.arguments.values() if is_tensor(value))


def is_tensor(value: object) -> bool:
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor)


def table(makers: Mapping[Maker, str]) -> dict[str, Maker]:
    """Maker -> the names of its aten operators, turned around."""
    return {f"aten.{name}": maker for maker, names in makers.items() for name in names.split()}
