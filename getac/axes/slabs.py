"""Follows what the slices of removed, or dead, units hold from operator to operator.

One walk answers two questions (see `getac.rules.base.SlabContext`): `check_masking` takes every parameter
entry of a removed unit as zero and freezes what would not survive the slicing; `find_contractions` takes the
numbers as they stand and finds the units that can go without changing the function.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from getac.axes.axis import Axis, Freeze, freeze, leaves
from getac.axes.inference import Inference
from getac.axes.reasons import NOT_FINITE, NOT_ZERO
from getac.rules.base import UNKNOWN, ZERO, Floats, Rule, Slab, Slabs
from getac.view import GraphView, NodeView

__all__ = ["Contraction", "check_masking", "find_contractions"]


@dataclass(frozen=True)
class Contraction:
    """A dimension that is summed away: where its units leave the graph.

    Args:
        node: The node that sums.
        axis: The axis that is summed away.
        removable: For each index, whether the sum does not notice, or the bias can make up for it; shape
            `(size,)`, or `()` where the answer is the same for all.
        slab: What the axis' slices hold.
        weight: What they are multiplied by.
    """

    node: NodeView
    axis: Axis
    removable: npt.NDArray[np.bool_]
    slab: Slab
    weight: Slab

    @property
    def constants(self) -> Floats:
        """For each index, the number that its slice holds (0 where it is not `removable`)."""
        return np.where(self.removable & (self.weight != 0), self.slab, 0.0)


class Numbers(Protocol):
    """What stored tensors hold, under one of the two questions."""

    masked: bool

    def parameter(self, value: Hashable, dimension: int) -> Slab: ...


@dataclass
class MaskedNumbers:
    """Every float entry that a removed unit owns is zero, but where other members do for it."""

    view: GraphView
    spared: Set[tuple[Hashable, int]]
    masked: bool = True

    def parameter(self, value: Hashable, dimension: int) -> Slab:
        return ZERO if self.view.is_float(value) and (value, dimension) not in self.spared else UNKNOWN


@dataclass
class StoredNumbers:
    """The numbers as they stand, read once per tensor and dimension."""

    view: GraphView
    masked: bool = False
    cache: dict[tuple[Hashable, int], Slab] = field(default_factory=dict)

    def parameter(self, value: Hashable, dimension: int) -> Slab:
        key = (value, dimension)
        if key not in self.cache:
            self.cache[key] = constant_slices(np.asarray(self.view.array(value)), dimension)
        return self.cache[key]


def constant_slices(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], dimension: int) -> Slab:
    """For each index along a dimension, the number that fills its slice, NaN where several do."""
    rest = tuple(i for i in range(array.ndim) if i != dimension)
    low, high = array.min(axis=rest), array.max(axis=rest)
    return np.where(low == high, low, np.nan).astype(np.float64)


def fill(operands: Sequence[Slab | None], number: float) -> list[Slab | None]:
    """The operands with a number in place of what is unknown."""
    return [None if slab is None else np.where(np.isnan(slab), number, slab) for slab in operands]


def check_masking(view: GraphView, inference: Inference) -> None:
    """Freezes the axes along which masking would not equal slicing.

    Zeroing a unit's parameters makes its activation a constant; where that constant is summed away
    without meeting a zero (`relu(q) + 1` in a linear attention, a sum over channels after a sigmoid),
    the masked model keeps what the sliced one loses.
    """
    walk = Walk(view, inference, MaskedNumbers(view, inference.spared))
    for contraction in walk.run():
        if not contraction.removable.all():
            why = Freeze(NOT_ZERO, contraction.node.name)
            for leaf in leaves(contraction.axis):
                if leaf not in inference.opened:  # there, masked differs from sliced in any case
                    freeze(leaf, why)
    for axis, node in walk.not_finite:
        freeze(axis, Freeze(NOT_FINITE, node))


def find_contractions(view: GraphView, inference: Inference) -> list[Contraction]:
    """The sums that units leave the graph through, with what is known of them in the model as it stands."""
    return Walk(view, inference, StoredNumbers(view)).run()


class Walk:
    """One pass over the nodes in order."""

    def __init__(self, view: GraphView, inference: Inference, numbers: Numbers) -> None:
        self.view = view
        self.inference = inference
        self.numbers = numbers
        self.parameters = set(view.parameters)
        self.known: dict[Hashable, Slabs] = {}
        self.contractions: list[Contraction] = []
        self.not_finite: list[tuple[Axis, str]] = []
        self.evaluated: dict[tuple[Hashable, ...], tuple[Slab, bool]] = {}
        self._open: dict[Axis, bool] = {}

    def run(self) -> list[Contraction]:
        with np.errstate(all="ignore"):  # what is not finite is dealt with where it matters
            for node in self.view.nodes:
                if node.rule is not None and self._touches_open(node):
                    self._visit(node, node.rule)
        return self.contractions

    def _visit(self, node: NodeView, rule: Rule) -> None:
        outputs = rule.slabs(Context(self, node))
        for value, slabs in zip(node.outputs, outputs, strict=False):
            self.known[value] = slabs

    def _touches_open(self, node: NodeView) -> bool:
        """Whether units can be removed from what a node reads or writes, all of it being of known shape."""
        touches = False
        for value in (*node.inputs, *node.outputs):
            if value is not None:
                axes = self.inference.axes.get(value)
                if axes is None:
                    return False
                touches = touches or any(map(self.is_open, axes))
        return touches

    def is_open(self, axis: Axis) -> bool:
        """Whether units can be removed somewhere along the axis."""
        if axis not in self._open:
            self._open[axis] = any(leaf.frozen is None and leaf.size > 1 for leaf in leaves(axis))
        return self._open[axis]


class Context:
    """What one node's rule may ask and state; see `getac.rules.base.SlabContext`."""

    def __init__(self, walk: Walk, node: NodeView) -> None:
        self._walk = walk
        self._node = node
        self._values = node.inputs
        self.inputs = len(node.inputs)
        self.outputs = len(node.outputs)

    def _value(self, index: int) -> Hashable:
        return self._values[index]

    def has(self, index: int) -> bool:
        return index < self.inputs and self._values[index] is not None

    def input_sizes(self, index: int) -> tuple[int, ...]:
        return self._sizes(self._values[index])

    def sizes(self, output: int = 0) -> tuple[int, ...]:
        return self._sizes(self._node.outputs[output])

    def _sizes(self, value: Hashable) -> tuple[int, ...]:
        sizes = self._walk.view.sizes(value)
        assert sizes is not None
        return sizes

    def live(self, index: int, dimension: int) -> bool:
        return self._walk.is_open(self._walk.inference.axes[self._value(index)][dimension])

    def slab(self, index: int, dimension: int) -> Slab:
        value = self._value(index)
        if value in self._walk.parameters:
            return self._walk.numbers.parameter(value, dimension)
        slabs = self._walk.known.get(value)
        return slabs[dimension] if slabs else UNKNOWN

    def number(self, index: int) -> Slab:
        numbers = self._walk.view.small_constant(self._value(index))
        if numbers is None or numbers.size == 0 or not (numbers == numbers.flat[0]).all():
            return UNKNOWN
        return np.array(float(numbers.flat[0]))

    def may_lose_units(self, dimension: int) -> bool:
        return self._walk.is_open(self._output(dimension))

    def _output(self, dimension: int) -> Axis:
        return self._walk.inference.axes[self._node.outputs[0]][dimension]

    def evaluate(self, dimension: int, operands: Sequence[Slab | None]) -> Slab:
        if not self.may_lose_units(dimension):
            return UNKNOWN
        result, is_finite = self._outcome(operands)
        if not is_finite:
            self._walk.not_finite.append((self._output(dimension), self._node.name))
        return result

    def _outcome(self, operands: Sequence[Slab | None]) -> tuple[Slab, bool]:
        """What comes out, and whether it is finite; single numbers recur from layer to layer, so they are
        remembered."""
        if any(slab is not None and slab.ndim for slab in operands):
            return self._compute(operands)
        key = (self._node.signature, *(None if slab is None else slab.tobytes() for slab in operands))
        if key not in self._walk.evaluated:
            self._walk.evaluated[key] = self._compute(operands)
        return self._walk.evaluated[key]

    def _compute(self, operands: Sequence[Slab | None]) -> tuple[Slab, bool]:
        arrays = np.broadcast_arrays(*(slab for slab in operands if slab is not None))
        missing = np.isnan(np.stack(arrays)) if arrays else np.array([True])
        unknown = missing.any(axis=0)
        beside_unknown = self._walk.numbers.masked and (unknown & ~missing.all(axis=0)).any()
        is_finite = not beside_unknown or self._is_finite_beside_unknown(operands)
        if unknown.all():
            return UNKNOWN, is_finite
        result = np.where(unknown, np.nan, self._run(fill(operands, 0.0)))
        finite = np.isfinite(result)
        return np.where(finite, result, np.nan), is_finite and bool((unknown | finite).all())

    def _is_finite_beside_unknown(self, operands: Sequence[Slab | None]) -> bool:
        """x / 0 is infinite although nobody knows x; a later zero weight would make it NaN."""
        return not any(np.isinf(self._run(fill(operands, number))).any() for number in (1.0, -1.0))

    def _run(self, operands: Sequence[Slab | None]) -> Floats:
        shape = np.broadcast_shapes(*(slab.shape for slab in operands if slab is not None))
        return np.asarray(self._node.evaluate(operands), dtype=np.float64).reshape(shape)

    def contract(self, index: int, dimension: int, weight: Slab, *, foldable: bool = False) -> None:
        axis = self._walk.inference.axes[self._value(index)][dimension]
        if not self._walk.is_open(axis):
            return
        slab = self.slab(index, dimension)
        vanishes = (slab == 0) | (weight == 0)
        if foldable and not self._walk.numbers.masked and self._has_own_bias():
            vanishes = vanishes | ~np.isnan(slab)
        # Not spread over the axis: one number stays one, however wide the layer is.
        self._walk.contractions.append(Contraction(self._node, axis, np.asarray(vanishes), slab, weight))

    def _has_own_bias(self) -> bool:
        """Whether the node's weight and bias are stored, so that a constant can move into the bias."""
        return all(value is None or value in self._walk.parameters for value in self._node.inputs[1:3])

    def merge(self, slabs: Sequence[Slab], sizes: Sequence[int], live: Sequence[bool]) -> Slab:
        """An index of a product is gone if any of its units is.

        In the masked model all live dimensions must agree, because either may be the reason. In the model
        as it stands one that is known is enough.
        """
        chosen = [i for i, is_live in enumerate(live) if is_live]
        if self._walk.numbers.masked:
            numbers = {float(slabs[i]) if slabs[i].ndim == 0 else np.nan for i in chosen}
            return np.array(numbers.pop()) if len(numbers) == 1 else UNKNOWN
        merged = np.full(tuple(sizes), np.nan)
        for i in chosen:
            shape = [size if i == j else 1 for j, size in enumerate(sizes)]
            column = np.broadcast_to(slabs[i], (sizes[i],)).reshape(shape)
            merged = np.where(np.isnan(merged), column, merged)
        return merged.reshape(-1)
