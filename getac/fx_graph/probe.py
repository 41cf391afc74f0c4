"""Concrete sizes for a graph with symbolic dimensions: each symbol becomes a prime of its own.

A reshape of (batch, heads, d) is understood by sizes; with the example's own batch size, a batch of 12 could
be mistaken for 12 heads. A prime that divides no static size cannot.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import fx
from torch.utils._sympy.functions import FloorDiv, Mod

__all__ = ["Probe"]


@dataclass(frozen=True)
class Probe:
    """Symbol -> prime (or a multiple, where the graph divides by a number)."""

    primes: Mapping[Any, int]
    _known: dict[Any, int] = field(default_factory=dict, repr=False, compare=False)  # by expression

    @classmethod
    def of(cls, graph: fx.Graph) -> Probe:
        """Chooses primes that divide no static size of a computed value."""
        expressions: dict[Any, None] = {}  # few, however many sizes there are
        static = {1}
        for size in all_sizes(graph):
            if type(size) is int:
                static.add(size)
            elif isinstance(size, torch.SymInt):
                expressions[size.node.expr] = None
        symbols = [
            symbol for one in expressions for symbol in sorted(one.free_symbols, key=attrgetter("name"))
        ]
        candidates = (n for n in primes() if not any(size and size % n == 0 for size in static))
        divisors = divisors_of(expressions)
        sizes = {symbol: next(candidates) * divisors.get(symbol, 1) for symbol in dict.fromkeys(symbols)}
        return cls(sizes, dict(sizes))

    @classmethod
    def per_sample(cls, graph: fx.Graph) -> Probe:
        """Batch symbols are 1, the others what they are in the example, or 1 where data decides (a mask)."""
        sizes: dict[Any, int] = {}
        for size in all_sizes(graph):
            if isinstance(size, torch.SymInt):
                sizes = dict.fromkeys(size.node.expr.free_symbols, 1) | sizes
                if size.node.expr.is_symbol and size.node.hint is not None:
                    sizes[size.node.expr] = int(size.node.hint)
        for node in graph.find_nodes(op="placeholder"):
            for size in getattr(node.meta.get("val"), "shape", ())[:1]:
                if isinstance(size, torch.SymInt):
                    sizes |= dict.fromkeys(size.node.expr.free_symbols, 1)
        return cls(sizes)

    def size(self, size: int | torch.SymInt) -> int:
        if isinstance(size, int):
            return size
        expression = size.node.expr
        if expression not in self._known:
            self._known[expression] = int(expression.subs(self.primes))
        return self._known[expression]

    def sizes(self, value: Any) -> tuple[int, ...] | None:
        """The sizes of a tensor, () for a number, None for anything else."""
        if isinstance(value, torch.Tensor):
            return tuple([size if type(size) is int else self.size(size) for size in value.shape])
        return () if isinstance(value, int | float | torch.SymInt | torch.SymFloat) else None


def all_sizes(graph: fx.Graph) -> Iterator[int | torch.SymInt]:
    """The sizes of inputs and results; a batch can only be mistaken for what it is computed with."""
    for node in graph.nodes:
        if node.op == "get_attr":
            continue
        values = node.meta.get("val")
        for value in values if isinstance(values, list | tuple) else (values,):
            if isinstance(value, torch.Tensor):
                yield from value.shape
            elif isinstance(value, torch.SymInt):
                yield value


def divisors_of(expressions: Iterable[Any]) -> dict[Any, int]:
    """What each symbol must be a multiple of: a view of (batch, 8) as (batch / 2, 16) needs an even batch."""
    divisors: dict[Any, int] = {}
    for expression in expressions:
        for quotient in expression.atoms(FloorDiv, Mod):
            if quotient.args[1].is_Integer:
                for symbol in quotient.free_symbols:
                    divisors[symbol] = math.lcm(divisors.get(symbol, 1), int(quotient.args[1]))
    return divisors


def primes() -> Iterator[int]:
    """Primes from 11 on."""
    found = [2, 3, 5, 7]
    candidate = 11
    while True:
        if all(candidate % prime for prime in found if prime * prime <= candidate):
            found.append(candidate)
            yield candidate
        candidate += 2
