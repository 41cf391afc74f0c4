"""What the entries of a small integer tensor mean: sizes of axes, or literals that stand in the graph.

A reshape target such as `Concat(Shape(x)[0:1], [768])` is a size that follows `x` by itself and a literal
that must be rewritten after slicing. Following where an entry comes from, never its value, is what keeps
ambiguous numbers apart.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from getac.axes.axis import Axis

__all__ = ["Contents", "Derived", "Entry", "Fixed", "Literal", "Site", "SizeOf", "Unknown"]


@dataclass(frozen=True, slots=True)
class Site:
    """Where an integer is written down: one entry of an argument of a node.

    Args:
        node: The node's identity in its graph.
        argument: The rule's name for the argument, or the position of the input that holds it.
        index: The entry, for arguments that are lists.
        from_end: Whether minus the size is written there (a slice's bound that is counted from the end).
    """

    node: Hashable
    argument: str | int
    index: int = 0
    from_end: bool = False


@dataclass(frozen=True, slots=True)
class Literal:
    """A number that is written in the graph, at `site`."""

    value: int
    site: Site


@dataclass(frozen=True, slots=True)
class SizeOf:
    """The size of an axis, computed when the graph runs: it follows slicing by itself."""

    axis: Axis


@dataclass(frozen=True, slots=True)
class Fixed:
    """A number computed from numbers that stay, such as the -1 that a size is compared with."""

    value: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """Something computed in a way that nobody followed; the sizes that went into it are frozen."""


Entry = Literal | SizeOf | Fixed | Unknown
Contents = tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Derived:
    """A number that an operator derives from the size of an axis, unless it is written down.

    Where the axis loses units it must be, at its old value.
    """

    axis: Axis
    value: float
