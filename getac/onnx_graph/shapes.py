"""Shapes by probing: sizes are computed at two sets of primes and written as products of input symbols.

Each symbolic input dimension becomes a prime, the graph is walked with numbers only, and a computed size of
4 * 37 * 7 at one probe and 4 * 601 * 101 at the other can only be 4 * S * N. Weights are not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import onnx_ir as ir

from getac.onnx_graph.fitting_probes import ProbedSymbol, UnfittingSizesError, fitting_probes
from getac.onnx_graph.node_inference import Array
from getac.onnx_graph.probe import Probe
from getac.onnx_graph.tensor_types import dtype_of, sizes_of

__all__ = ["Dim", "Shapes", "UnfittingSizesError", "infer_shapes", "open_shapes"]


@dataclass(frozen=True)
class Dim:
    """The size of one dimension: constant * product of symbols; constant None: known only at the probe."""

    size: int
    constant: int | None
    symbols: tuple[str, ...] = ()

    @property
    def is_static(self) -> bool:
        """True if the size is the same whatever the inputs are."""
        return self.constant is not None and not self.symbols

    def at(self, bindings: Mapping[str, int]) -> int | None:
        """The size for given symbols; None if it is unsettled or `bindings` lacks a symbol."""
        size = self.constant
        for symbol in self.symbols:
            if size is None or symbol not in bindings:
                return None
            size *= bindings[symbol]
        return size

    def __str__(self) -> str:
        if self.constant is None:
            return f"{self.size}?"
        factors = [str(self.constant)] if self.constant != 1 or not self.symbols else []
        return "*".join([*factors, *self.symbols])


@dataclass(frozen=True)
class Shapes:
    """What is known about the values of a graph, those in the branches of an If included.

    Args:
        symbols: The size of every free input symbol at the first probe.
        dims: The dimensions of every value whose rank and sizes are known.
        dtypes: The element type of every tensor where it is known.
        constants: Small values that are the same at every probe, read or computed.
        probed: Small integer and boolean values at the first probe, those computed from sizes included.
    """

    symbols: Mapping[str, int]
    dims: Mapping[ir.Value, tuple[Dim, ...]] = field(repr=False)
    dtypes: Mapping[ir.Value, ir.DataType] = field(repr=False)
    constants: Mapping[ir.Value, Array] = field(repr=False)
    probed: Mapping[ir.Value, Array] = field(repr=False)

    def sizes(self, value: ir.Value) -> tuple[int, ...] | None:
        """The value's sizes at the first probe; None where they are unknown."""
        dims = self.dims.get(value)
        return None if dims is None else tuple(dim.size for dim in dims)


def infer_shapes(model: ir.Model, bindings: Mapping[str, int] | None = None) -> Shapes:
    """Infers the shapes of all values from two probes, in time linear in the number of nodes.

    Sizes that depend on data, and outputs of operators without a schema, are unknown unless the file declares
    them. Like any probing it takes a cut-off outside the probed sizes (at most some hundreds) for none.

    Args:
        model: Sorted, functions inlined, constants in initializers.
        bindings: Sizes of symbolic input dimensions that are settled; these symbols become constants. A
            dimension without a name is called `input.position`.

    Raises:
        OptionError: `bindings` names no symbol of the model, or a size below 1.
        InvalidModelError: A node cannot run on its inputs, whatever the symbols are.
        UnfittingSizesError: No tried size of the symbols fits all nodes.
    """
    first, second, symbols = fitting_probes(model, bindings or {})
    return _settled(first, second, symbols)


def open_shapes(model: ir.Model, bindings: Mapping[str, int]) -> Shapes:
    """The same with every symbol open, so that nothing that follows holds for one size alone.

    Args:
        bindings: Sizes that data settles, which count only where the model does not run on others.
    """
    try:
        return infer_shapes(model)
    except UnfittingSizesError:
        return infer_shapes(model, bindings)


def _settled(first: Probe, second: Probe, symbols: Sequence[ProbedSymbol]) -> Shapes:
    """Compares the two probes, value by value."""
    # Symbols that had to be equal to each other are called by the first one's name.
    unique: dict[tuple[int, int], ProbedSymbol] = {}
    for name, one, two in symbols:
        unique.setdefault((one, two), (name, one, two))

    @cache  # layers have the same shapes again and again
    def settle(before: tuple[int, ...], after: tuple[int, ...] | None) -> tuple[Dim, ...]:
        if after is None or len(before) != len(after):
            return tuple(Dim(size, None) for size in before)
        pairs = zip(before, after, strict=True)
        return tuple(_settle(one, two, list(unique.values())) for one, two in pairs)

    dims: dict[ir.Value, tuple[Dim, ...]] = {}
    for value, kind in first.types.items():
        if (sizes := sizes_of(kind)) is not None:
            dims[value] = settle(sizes, second.sizes(value))
    return Shapes(
        symbols={name: one for name, one, _ in symbols},
        dims=dims,
        dtypes={value: dtype for value, kind in first.types.items() if (dtype := dtype_of(kind)) is not None},
        constants={
            value: array for value, array in first.data.items() if _same(array, second.data.get(value))
        },
        probed={value: array for value, array in first.data.items() if array.dtype.kind in "biu"},
    )


def _settle(one: int, two: int, symbols: Sequence[ProbedSymbol]) -> Dim:
    """The one product of a constant and symbols that is `one` at the first and `two` at the second probe."""
    if one == two:
        return Dim(one, one)
    constant, other, factors = one, two, list[str]()
    for name, size, second in symbols:
        while other and constant % size == 0 and other % second == 0:
            constant, other = constant // size, other // second
            factors.append(name)
    return Dim(one, constant, tuple(factors)) if constant == other else Dim(one, None)


def _same(one: Array, other: Array | None) -> bool:
    if one is other:
        return True
    return other is not None and one.dtype == other.dtype and np.array_equal(one, other)
