"""What one node's rule may ask of the graph, and state."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from getac.axes.axis import Axis, Freeze, atom, freeze, resolve
from getac.axes.contents import Contents, Derived, Entry, Fixed, Literal, Site, SizeOf, Unknown
from getac.axes.inference import Inference, OpaqueNode, pin
from getac.axes.reasons import ARGUMENT, COMPUTED_SIZE, SIZE_AS_NUMBER, WRONG_RESULT, Reason
from getac.axes.unify import unify, unify_sizes
from getac.rules.base import Axes
from getac.view import GraphView, NodeView

__all__ = ["Context"]


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
