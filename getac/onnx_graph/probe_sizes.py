"""Which numbers stand for the symbolic sizes of a model's inputs while it is probed.

Primes that divide no static size and no small constant of the model: then a symbol's prime occurs in a
computed size exactly as often as the symbol is a factor of it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["SCHEMES", "InputSizes", "Role", "Scheme", "read_input_sizes"]

_MAX_SIZE = 2**40  # of a dimension that is an expression over others
_MAX_TRIED = 1000  # primes; beyond that a coincidence is accepted, and costs precision only


class Role(Enum):
    """What a symbol probably counts, which says how large it has to be for the model to run."""

    BATCH = 0
    LENGTH = 1
    SPATIAL = 2


@dataclass(frozen=True)
class Scheme:
    """Where to look for the primes of the two probes, per role: (batch, length, spatial).

    Args:
        first, second: Lower bounds of the primes.
        factor: Multiplies lengths and spatial sizes, for models that need them divisible.
        shared: Gives all symbols of one role at one position the same prime.
    """

    first: tuple[int, int, int]
    second: tuple[int, int, int]
    factor: int = 1
    shared: bool = False


# In the order in which they are tried. The first keeps the probes far apart, so that a size that is cut off
# somewhere (a slice up to 512) shows; the others are for models that only run within a table's length, that
# halve and double an image, that have little room, or that need a second of sound. The second probe is always
# much larger than the first: halved five times, 229 and 233 would both be 8, and look like a constant.
SCHEMES = tuple(
    Scheme(first, second, factor, shared)
    for first, second, factor in (
        ((7, 37, 223), (101, 601, 1021), 1),
        ((7, 37, 223), (7, 67, 1021), 1),
        ((5, 7, 7), (5, 31, 31), 32),
        ((3, 7, 37), (3, 17, 79), 1),
        ((1009, 16411, 1009), (1009, 65537, 4099), 1),
    )
    for shared in (False, True)
)


@dataclass(frozen=True)
class InputSizes:
    """The symbolic dimensions of a model's inputs.

    `names` has, for every input tensor of known rank, each dimension as a size or a symbol's name; `symbols`
    the free ones with their role and position, and `derived` those that are sums and products of others.
    """

    names: Mapping[ir.Value, tuple[int | str, ...]]
    symbols: Mapping[str, tuple[Role, int]]
    derived: Mapping[str, ast.expr]
    bindings: Mapping[str, int]
    avoid: npt.NDArray[np.int64] = field(repr=False)

    def assignments(self, scheme: Scheme) -> tuple[dict[str, int], dict[str, int]]:
        """Sizes of the free symbols for the first and the second probe; never the same one twice."""
        used: set[int] = set()
        first = self._assign(scheme.first, scheme, used)
        return first, self._assign(scheme.second, scheme, used)

    def _assign(self, bounds: tuple[int, int, int], scheme: Scheme, used: set[int]) -> dict[str, int]:
        sizes: dict[str, int] = {}
        shared: dict[tuple[Role, int], int] = {}
        for name, key in sorted(self.symbols.items(), key=lambda item: item[1][0].value):
            if not (scheme.shared and key in shared):
                role = key[0]
                shared[key] = _fresh_prime(bounds[role.value], self.avoid, used)
                shared[key] *= 1 if role is Role.BATCH else scheme.factor
            sizes[name] = shared[key]
        return sizes

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Sizes of all symbols: the free, the bound and the derived ones."""
        known = {**sizes, **self.bindings}
        return known | {name: _evaluate(tree, known) for name, tree in self.derived.items()}


def read_input_sizes(
    inputs: Sequence[ir.Value], avoid: Iterable[int], bindings: Mapping[str, int]
) -> InputSizes:
    """Collects the symbols of the inputs. `avoid`: numbers that no prime may divide."""
    names = {value: _dimension_names(value) for value in inputs if value.shape is not None}
    occurrences: dict[str, list[tuple[Role, int]]] = {}
    for dims in names.values():
        for position, name in enumerate(dims):
            if isinstance(name, str):
                occurrences.setdefault(name, []).append((_role(position, len(dims)), position))
    trees = {name: _expression(name, occurrences) for name in occurrences if name not in bindings}
    derived = {name: tree for name, tree in trees.items() if tree is not None}
    symbols = {name: _strongest(occurrences[name]) for name, tree in trees.items() if tree is None}
    static = {size for dims in names.values() for size in dims if isinstance(size, int)}
    numbers = sorted({n for n in static.union(avoid, bindings.values()) if n > 1})
    used = {name: size for name, size in bindings.items() if name in occurrences}
    return InputSizes(names, symbols, derived, used, np.array(numbers, dtype=np.int64))


def _dimension_names(value: ir.Value) -> tuple[int | str, ...]:
    """Each dimension's size or symbol; one without a name is called after the input and the position."""
    assert value.shape is not None
    return tuple(
        dim
        if isinstance(dim, int) and dim >= 0
        else (isinstance(dim, ir.SymbolicDim) and dim.value) or f"{value.name}.{position}"
        for position, dim in enumerate(value.shape)
    )


def _role(position: int, rank: int) -> Role:
    if position == 0:
        return Role.BATCH
    return Role.SPATIAL if rank >= 4 and position >= 2 else Role.LENGTH


def _strongest(occurrences: Sequence[tuple[Role, int]]) -> tuple[Role, int]:
    """A symbol that is somewhere a batch is a batch; then spatial goes before length."""
    order = (Role.BATCH, Role.SPATIAL, Role.LENGTH)
    return min(occurrences, key=lambda occurrence: order.index(occurrence[0]))


def _expression(name: str, symbols: Mapping[str, object]) -> ast.expr | None:
    """The name as sums and products of other dimensions ("past + 1"); None where it is only a name."""
    if len(name) > 100 or name.isidentifier():
        return None
    try:
        tree = ast.parse(name, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    leaves = [node for node in ast.walk(tree) if not isinstance(node, ast.expr_context | ast.operator)]
    plain = all(_is_leaf(node, symbols) or _is_arithmetic(node) for node in leaves)
    if not plain or not any(isinstance(node, ast.Name) for node in leaves):
        return None
    return tree if _evaluate(tree, dict.fromkeys(symbols, 2**15)) <= _MAX_SIZE else None


def _is_leaf(node: ast.AST, symbols: Mapping[str, object]) -> bool:
    if isinstance(node, ast.Name):
        return node.id in symbols
    return isinstance(node, ast.Constant) and type(node.value) is int


def _is_arithmetic(node: ast.AST) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult)


def _evaluate(tree: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(tree, ast.Name):
        return sizes[tree.id]
    if isinstance(tree, ast.Constant):
        return int(str(tree.value))
    assert isinstance(tree, ast.BinOp)
    left, right = _evaluate(tree.left, sizes), _evaluate(tree.right, sizes)
    return left + right if isinstance(tree.op, ast.Add) else left * right


def _fresh_prime(bound: int, avoid: npt.NDArray[np.int64], used: set[int]) -> int:
    """The next unused prime from `bound` on that divides no number in `avoid`."""
    primes = (prime for prime in _primes(bound) if prime not in used)
    for tried, prime in enumerate(primes):
        if tried >= _MAX_TRIED or not np.any(avoid % prime == 0):
            used.add(prime)
            return prime
    raise AssertionError("there are infinitely many primes")


def _primes(bound: int) -> Iterator[int]:
    number = bound
    while True:
        if all(number % divisor for divisor in range(2, int(number**0.5) + 1)):
            yield number
        number += 1
