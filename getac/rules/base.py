"""What a rule is, and what it may ask of the analysis that calls it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from getac.axes.axis import Axis
from getac.axes.contents import Contents, Entry
from getac.axes.reasons import Reason

__all__ = ["UNKNOWN", "ZERO", "Axes", "AxisContext", "Floats", "Rule", "Slab", "SlabContext", "Slabs"]

Floats = npt.NDArray[np.float64]

Axes = tuple[Axis, ...]
"""One axis type per dimension of a value."""

Slab = Floats
"""What the slice of each unit along one dimension holds, where it holds one number everywhere.

Shape `(size,)`, or `()` where every unit's slice holds the same; NaN means "not known to be constant".
"""

Slabs = tuple[Slab, ...]
"""One slab per dimension of a value."""

UNKNOWN: Slab = np.array(np.nan)
ZERO: Slab = np.array(0.0)


class AxisContext(Protocol):
    """What a rule may ask and state while it contributes its equations."""

    @property
    def inputs(self) -> int:
        """How many inputs the node lists."""
        ...

    @property
    def outputs(self) -> int:
        """How many outputs the node has."""
        ...

    def sizes(self, output: int = 0) -> tuple[int, ...]:
        """The sizes of an output."""
        ...

    def input(self, index: int) -> Axes:
        """The axes of an input that must be there.

        Inputs that a rule does not ask for are arguments, not operands: their axes are frozen.
        """
        ...

    def optional_input(self, index: int) -> Axes | None:
        """The axes of an input, None where it is absent."""
        ...

    def atom(self, size: int, label: str = "") -> Axis: ...

    def frozen_atom(self, size: int, reason: Reason) -> Axis: ...

    def same(self, x: Axis, y: Axis) -> None:
        """States that two dimensions are the same axis."""
        ...

    def freeze(self, axis: Axis, reason: Reason) -> None:
        """States that an axis must keep all of its units."""
        ...

    def freeze_statistics(self, axis: Axis, reason: Reason) -> None:
        """States that statistics are taken over an axis: it is frozen unless a person opens it.

        Without a unit the statistics are others than with a unit of zeros, so that masked and sliced differ.
        """
        ...

    def role(self, axis: Axis, name: str) -> None:
        """Says what this operator calls an axis (see `getac.axes.roles`); nothing depends on it."""
        ...

    def layer(self, into: Axis, out: Axis) -> None:
        """Says that this operator multiplies by a weight of rows `into` and columns `out`; nothing depends
        on it but their names."""
        ...

    def is_parameter(self, index: int) -> bool:
        """Whether an input is a stored tensor."""
        ...

    def is_weight(self, index: int) -> bool:
        """Whether an input is a stored tensor, or computed from stored tensors alone."""
        ...

    def spare(self, index: int, dimension: int) -> None:
        """States that masking leaves a stored input as it is along a dimension: its units end elsewhere.

        Slicing takes its entries with the others.
        """
        ...

    def size_site(self, argument: str | int, axis: Axis, index: int = 0, *, from_end: bool = False) -> None:
        """States that an argument of this node (or an entry of it) is the size of an axis, or minus it."""
        ...

    def size_sites(self, entries: Sequence[Entry], axes: Sequence[Axis]) -> None:
        """States that entries of an integer input are the sizes of axes, one by one.

        A literal is rewritten after slicing, a size of an axis makes the two the same, an entry that
        nobody followed freezes. Negative and zero literals (inferred, copied) follow by themselves.
        """
        ...

    def keep_number(self, argument: str, value: float, axis: Axis) -> None:
        """States that a number which the operator derives from an axis' size must stay what it is.

        Args:
            argument: The rule's name for the argument that can say it.
        """
        ...

    def pin(self, entry: Entry, reason: Reason) -> None:
        """States that an entry must keep its value, because it is used as a number."""
        ...

    def contents(self, index: int) -> Contents | None:
        """What the entries of an integer input mean; None where nobody knows.

        A rule that asks takes charge of every size among the entries. The sizes of an input that no rule
        asked about are frozen, because they are used in arithmetic that nobody follows.
        """
        ...

    def set_contents(self, contents: Contents) -> None:
        """States what the entries of the first output mean."""
        ...


class SlabContext(Protocol):
    """What a rule may ask and state while constant slices are followed through the graph.

    The same rules answer two questions. With every parameter entry of a removed unit set to zero: what do
    its slices hold, and is "masked equals sliced" true? And in the model as it stands: which units hold
    the same number whatever the input, so that they may go without changing the function?
    """

    @property
    def inputs(self) -> int:
        """How many inputs the node lists."""
        ...

    @property
    def outputs(self) -> int: ...

    def has(self, index: int) -> bool:
        """Whether the input is there."""
        ...

    def input_sizes(self, index: int) -> tuple[int, ...]: ...

    def sizes(self, output: int = 0) -> tuple[int, ...]: ...

    def slab(self, index: int, dimension: int) -> Slab:
        """The slab of an input along one of its dimensions."""
        ...

    def number(self, index: int) -> Slab:
        """The one number that fills a constant input, shape (); NaN where there is none."""
        ...

    def evaluate(self, dimension: int, operands: Sequence[Slab | None]) -> Slab:
        """Runs the operator on constant slices; NaN where an operand is NaN.

        Where the answer is not finite, the output's `dimension` is frozen: zero times infinity is no zero.
        """
        ...

    def contract(self, index: int, dimension: int, weight: Slab, *, foldable: bool = False) -> None:
        """States that a dimension of an input is summed away, multiplied by a weight.

        Args:
            weight: The weight's slab along its side of the sum.
            foldable: Whether `Rule.bias_from_constants` can move a constant slice into the node's bias.
        """
        ...

    def may_lose_units(self, dimension: int) -> bool:
        """Whether units can be removed along a dimension of the first output; else no slab is wanted."""
        ...

    def merge(self, slabs: Sequence[Slab], sizes: Sequence[int], live: Sequence[bool]) -> Slab:
        """The slab of the row-major product of dimensions, of which the live ones can lose units."""
        ...

    def live(self, index: int, dimension: int) -> bool:
        """Whether units can be removed along the dimension of an input."""
        ...


@dataclass(frozen=True)
class Rule:
    """The base of all rules."""

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        """States the operator's equations and returns the axes of each output."""
        raise NotImplementedError

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        """Returns the slabs of each output; the default knows nothing, which is always sound."""
        return ()

    def bias_from_constants(self, weight: Floats, constants: Floats) -> Floats:
        """What input slices that hold constants add to each output unit.

        Args:
            weight: The weight, in the operator's layout.
            constants: One number per index of the contracted input dimension.

        Returns:
            One number per output unit.
        """
        raise NotImplementedError

    def macs(self, inputs: Sequence[tuple[int, ...] | None], output: tuple[int, ...]) -> int:
        """Multiply-accumulate operations for the given sizes; element-wise work counts as none."""
        return 0
