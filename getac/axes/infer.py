"""Walks a graph once and lets every operator's rule contribute its equations."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from getac.axes.axis import Axis, Freeze, atom, freeze, leaves, resolve
from getac.axes.contents import Contents, Derived, Entry, Fixed, Literal, Site, SizeOf, Unknown
from getac.axes.reasons import (
    ARGUMENT,
    COMPUTED_SIZE,
    EMPTY_INPUT,
    GRAPH_INPUT,
    GRAPH_OUTPUT,
    KEPT,
    NO_INPUT_SHAPE,
    NO_OUTPUT_SHAPE,
    NO_RULE,
    OUTPUT_SIZE,
    SIZE_AS_NUMBER,
    WRONG_RESULT,
    Reason,
)
from getac.axes.unify import unify, unify_sizes
from getac.axes.wishes import NO_WISHES, Wishes
from getac.rules.base import Axes
from getac.view import GraphView, NodeView

__all__ = ["Inference", "OpaqueNode", "infer"]


@dataclass(frozen=True)
class OpaqueNode:
    """A node whose operator maps no units: everything that it touches is frozen."""

    name: str
    operator: str
    reason: str
    hint: str


@dataclass
class Inference:
    """The solved equations of a graph.

    Args:
        axes: Value -> one axis type per dimension, for every value of known shape.
        sites: Where a size is written down -> the axis that it is the size of.
        opaque: The nodes without a rule, with the reason.
        pinned: Literals that are used as numbers too, so that they must stay as they are.
        derived: Where a number can be written that else follows from a size.
        parameters: The stored tensors.
        statistics: Axes that statistics are taken over, which freezes them unless a person opens them.
        opened: The atoms that were opened so.
        roles: What operators call an axis, such as "heads".
        layers: The axes that weights multiply, and those that come out.
        weights: The values that are stored, or computed from stored ones alone.
        spared: Dimensions of stored tensors that masking leaves as they are.
    """

    axes: dict[Hashable, Axes] = field(default_factory=dict)
    sites: dict[Site, Axis] = field(default_factory=dict)
    opaque: list[OpaqueNode] = field(default_factory=list)
    pinned: dict[Site, Freeze] = field(default_factory=dict)
    derived: dict[Site, Derived] = field(default_factory=dict)
    parameters: frozenset[Hashable] = frozenset()
    statistics: list[tuple[Axis, Freeze]] = field(default_factory=list)
    opened: set[Axis] = field(default_factory=set)
    roles: list[tuple[Axis, str]] = field(default_factory=list)
    layers: list[tuple[Axis, Axis]] = field(default_factory=list)
    weights: set[Hashable] = field(default_factory=set)
    spared: set[tuple[Hashable, int]] = field(default_factory=set)


def infer(view: GraphView, wishes: Wishes = NO_WISHES) -> Inference:
    """Solves the axis equations of a graph.

    Graph inputs and outputs are frozen, and so is everything that touches an operator without a rule.

    Args:
        wishes: Parameters to keep whole, and parameters to open where they are frozen for safety.
    """
    result = Inference(parameters=frozenset(view.parameters))
    contents: dict[Hashable, Contents] = {}
    for value in view.parameters:
        add_value(view, result, value, None)
    result.weights.update(view.parameters)
    for value in view.inputs:
        add_value(view, result, value, GRAPH_INPUT)
    for node in view.nodes:
        visit(view, node, result, contents)
    for value in view.outputs:
        for axis in result.axes.get(value, ()):
            freeze(axis, Freeze(GRAPH_OUTPUT, view.name_of(value)))
        for entry in contents.get(value, ()):
            pin(entry, result, Freeze(OUTPUT_SIZE, view.name_of(value)))
    freeze_statistics(view, result, wishes)  # last: of what else is frozen, no wish opens it
    return result


def freeze_statistics(view: GraphView, result: Inference, wishes: Wishes) -> None:
    """Carries out the wishes: what statistics are taken over is frozen, except where a person opens it."""
    wanted: set[Axis] = set()
    for value in view.parameters if wishes.keep or wishes.prune else ():
        name = view.name_of(value)
        keeps, opens = wishes.keeps(name), wishes.opens(name)
        for axis in result.axes.get(value, ()):
            if keeps:
                freeze(axis, Freeze(KEPT, name))
            if opens:
                wanted.update(leaves(axis))
    for axis, why in result.statistics:
        for leaf in leaves(axis):
            if leaf in wanted:
                result.opened.add(leaf)
            else:
                freeze(leaf, why)


def pin(entry: Entry, result: Inference, why: Freeze) -> None:
    """Keeps the number that an entry is: of a literal, what other nodes take it for the size of."""
    if isinstance(entry, Literal):
        result.pinned[entry.site] = why
        if entry.site in result.sites:
            freeze(result.sites[entry.site], why)
    elif isinstance(entry, SizeOf):
        freeze(entry.axis, why)


def add_value(view: GraphView, result: Inference, value: Hashable, frozen: Reason | None) -> None:
    sizes = view.sizes(value)
    if sizes is None:
        return
    name = view.name_of(value)
    axes = tuple(atom(size, f"{name}.{i}") for i, size in enumerate(sizes))
    if frozen:
        for axis in axes:
            freeze(axis, Freeze(frozen, name))
    result.axes[value] = axes


def visit(view: GraphView, node: NodeView, result: Inference, contents: dict[Hashable, Contents]) -> None:
    """Lets the node's rule speak, or makes the node opaque and says why."""
    reason = why_opaque(view, node, result, contents)
    context = Context(view, node, result, contents)
    if reason is not None:
        context.make_opaque(reason)
        return
    assert node.rule is not None
    if not node.captured and all(value is None or value in result.weights for value in node.inputs):
        result.weights.update(node.outputs)
    outputs = node.rule.axes(context)
    context.freeze_arguments()
    context.freeze_unfollowed_sizes()
    for value, axes in zip(node.outputs, outputs, strict=False):
        context.set_output(value, axes)


def why_opaque(
    view: GraphView, node: NodeView, result: Inference, contents: Mapping[Hashable, Contents]
) -> Reason | None:
    if node.refusal is NO_RULE:
        return NO_RULE
    for value in node.inputs:
        if value is None:
            continue
        if value not in result.axes:
            return NO_INPUT_SHAPE.about(view.name_of(value))
        if 0 in (view.sizes(value) or ()) and not is_empty_list(view, value, contents):
            return EMPTY_INPUT.about(view.name_of(value))
    for value in node.outputs:
        if view.sizes(value) is None:
            return NO_OUTPUT_SHAPE.about(view.name_of(value))
    return node.refusal  # last: a shape that is not known is why arguments cannot be read


def is_empty_list(view: GraphView, value: Hashable, contents: Mapping[Hashable, Contents]) -> bool:
    """Whether a value lists the sizes of no dimensions: the shape of a scalar, or Shape(x)[0:0]."""
    if contents.get(value) == ():
        return True
    numbers = view.small_constant(value)
    return numbers is not None and numbers.shape == (0,) and np.issubdtype(numbers.dtype, np.integer)


class Context:
    """What one node's rule may ask and state; see `getac.rules.base.AxisContext`."""

    def __init__(
        self, view: GraphView, node: NodeView, result: Inference, contents: dict[Hashable, Contents]
    ) -> None:
        self._view = view
        self._node = node
        self._result = result
        self._contents = contents
        self._followed: set[int] = set()
        self._operands: set[int] = set()
        self.inputs = len(node.inputs)
        self.outputs = len(node.outputs)

    def input(self, index: int) -> Axes:
        axes = self.optional_input(index)
        assert axes is not None, f"{self._node.name}: input {index} must be there"
        return axes

    def optional_input(self, index: int) -> Axes | None:
        value = self._node.inputs[index] if index < self.inputs else None
        self._operands.add(index)
        return None if value is None else self._result.axes.get(value)

    def sizes(self, output: int = 0) -> tuple[int, ...]:
        sizes = self._view.sizes(self._node.outputs[output])
        assert sizes is not None
        return sizes

    def atom(self, size: int, label: str = "") -> Axis:
        return atom(size, f"{self._node.name}.{label}" if label else self._node.name)

    def frozen_atom(self, size: int, reason: Reason) -> Axis:
        axis = self.atom(size)
        axis.frozen = Freeze(reason, self._node.name)
        return axis

    def same(self, x: Axis, y: Axis) -> None:
        unify(x, y, self._node.name)

    def freeze(self, axis: Axis, reason: Reason) -> None:
        if resolve(axis).frozen is None:  # else all of its atoms are
            freeze(axis, Freeze(reason, self._node.name))

    def freeze_statistics(self, axis: Axis, reason: Reason) -> None:
        self._result.statistics.append((axis, Freeze(reason, self._node.name)))

    def role(self, axis: Axis, name: str) -> None:
        self._result.roles.append((axis, name))

    def layer(self, into: Axis, out: Axis) -> None:
        self._result.layers.append((into, out))

    def is_parameter(self, index: int) -> bool:
        return index < self.inputs and self._node.inputs[index] in self._result.parameters

    def is_weight(self, index: int) -> bool:
        return index < self.inputs and self._node.inputs[index] in self._result.weights

    def spare(self, index: int, dimension: int) -> None:
        self._result.spared.add((self._node.inputs[index], dimension))

    def size_site(self, argument: str | int, axis: Axis, index: int = 0, *, from_end: bool = False) -> None:
        self._add_site(Site(self._node.identity, argument, index, from_end), axis)

    def _add_site(self, site: Site, axis: Axis) -> None:
        known = self._result.sites.setdefault(site, axis)
        if known is not axis:
            unify_sizes(known, axis, self._node.name)  # one number cannot become two
        if site in self._result.pinned:
            freeze(axis, self._result.pinned[site])

    def size_sites(self, entries: Sequence[Entry], axes: Sequence[Axis]) -> None:
        for entry, axis in zip(entries, axes, strict=True):
            if isinstance(entry, Literal):
                if entry.value == axis.size:
                    self._add_site(entry.site, axis)
            elif isinstance(entry, SizeOf):
                unify_sizes(entry.axis, axis, self._node.name)
            elif not isinstance(entry, Fixed) or entry.value == axis.size:
                self.freeze(axis, COMPUTED_SIZE)

    def keep_number(self, argument: str, value: float, axis: Axis) -> None:
        self._result.derived[Site(self._node.identity, argument)] = Derived(axis, value)

    def pin(self, entry: Entry, reason: Reason) -> None:
        pin(entry, self._result, Freeze(reason, self._node.name))

    def contents(self, index: int) -> Contents | None:
        entries = self._node.entries(index)
        if entries is not None:
            return tuple(self._entry(index, position, entry) for position, entry in enumerate(entries))
        if index >= len(self._node.inputs):
            return None
        value = self._node.inputs[index]
        self._followed.add(index)
        if value in self._contents:
            return self._contents[value]
        numbers = self._view.small_constant(value) if value is not None else None
        if numbers is None or numbers.ndim > 1 or not np.issubdtype(numbers.dtype, np.integer):
            return None
        if value not in self._result.parameters:
            return (Unknown(),) * numbers.size
        return tuple(
            Literal(int(number), Site(self._node.identity, index, position))
            for position, number in enumerate(numbers.reshape(-1))
        )

    def _entry(self, index: int, position: int, entry: int | Hashable) -> Entry:
        """An entry of a list that stands in the node itself: a number, or a value of one integer."""
        if isinstance(entry, int):
            return Literal(entry, Site(self._node.identity, index, position))
        known = self._contents.get(entry, ())
        return known[0] if len(known) == 1 else Unknown()

    def set_contents(self, contents: Contents) -> None:
        self._contents[self._node.outputs[0]] = contents

    def freeze_arguments(self) -> None:
        """Inputs that the rule took no axes from (scales, indices) keep their form."""
        for index, value in enumerate(self._node.inputs):
            if index not in self._operands:
                for axis in self._result.axes.get(value, ()):
                    self.freeze(axis, ARGUMENT.about(self._node.operator))

    def freeze_unfollowed_sizes(self) -> None:
        """Sizes that go into arithmetic without a rule: what comes out of it would change with them."""
        if not self._contents:  # no value holds sizes, as in most convolutional networks
            return
        for index, value in enumerate(self._node.inputs):
            if index not in self._followed:
                self._pin_entries(value)
        for value in self._node.captured:
            self._pin_entries(value)

    def _pin_entries(self, value: Hashable) -> None:
        for entry in self._contents.get(value, ()):
            pin(entry, self._result, Freeze(SIZE_AS_NUMBER, self._node.name))

    def set_output(self, value: Hashable, axes: Axes) -> None:
        """Records a rule's answer; one that contradicts the known shape is not trusted."""
        sizes = self._view.sizes(value)
        if sizes == tuple(axis.size for axis in axes):
            self._result.axes[value] = axes
            return
        self.make_opaque(WRONG_RESULT)

    def make_opaque(self, why: Reason) -> None:
        """Freezes all that the node touches and gives its outputs fresh, frozen axes."""
        operator = self._node.operator
        self._result.opaque.append(OpaqueNode(self._node.name, operator, why.text, why.hint))
        reason = why.touched_through(operator)
        for value in [*self._node.inputs, *self._node.captured]:
            for axis in self._result.axes.get(value, ()):
                self.freeze(axis, reason)
            self._pin_entries(value)
        for value in self._node.outputs:
            sizes = self._view.sizes(value)
            if sizes is not None:
                self._result.axes[value] = tuple(self.frozen_atom(size, reason) for size in sizes)
