"""The dependency analysis of a graph: pruning classes, their members, frozen axes and size sites."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from getac.axes.axis import Axis, Freeze, Mask, kept, leaves, units
from getac.axes.contents import Site
from getac.axes.infer import infer
from getac.axes.inference import Inference, OpaqueNode
from getac.axes.reasons import GLOB
from getac.axes.roles import UNITS, name_atoms
from getac.axes.slabs import check_masking
from getac.axes.wishes import NO_WISHES, Wishes
from getac.rules.base import Axes
from getac.view import GraphView

if TYPE_CHECKING:
    import networkx as nx

    from getac.axes.costs import Costs
    from getac.quantizer import Quantizer

__all__ = ["Analysis", "FrozenAxis", "Member", "PruningClass", "analyze_view"]


class Member(NamedTuple):  # there are several for each parameter
    """A parameter's dimension in which a class occurs.

    Args:
        parameter: The stored tensor.
        name: Its name.
        dimension: Which of its dimensions.
        axis: That dimension's type.
    """

    parameter: Hashable
    name: str
    dimension: int
    axis: Axis

    def owners(self, unit_atom: Axis) -> list[npt.NDArray[np.int64]]:
        """For each occurrence of the class: the unit that owns each index of the dimension, or -1."""
        return units(self.axis, unit_atom)


@dataclass(frozen=True)
class PruningClass:
    """One pruning axis: `size` interchangeable units (channels, heads, ...), removed as a whole.

    Args:
        name: `c0`, `c1`, ... in the order of the graph.
        role: What its units are called: channels, columns, heads, ...
        atom: The axis type that stands for it.
        members: Where its units live: a removed unit is as good as one whose entries here are zero.
        spared: Where slicing cuts as well, but masking must not: the directions of a weight norm.
    """

    name: str
    role: str
    atom: Axis
    members: tuple[Member, ...]
    spared: tuple[Member, ...] = ()

    @property
    def size(self) -> int:
        return self.atom.size

    @property
    def place(self) -> str:
        """The module that most of its parameters lie in; empty if there is none."""
        return common_module([member.name for member in self.members])


@dataclass(frozen=True)
class FrozenAxis:
    """An axis of stored tensors that must keep all of its units, and why."""

    size: int
    why: Freeze
    members: tuple[Member, ...]

    @property
    def hint(self) -> str:
        """What a person can do about it."""
        return self.why.hint.replace(GLOB, self.members[0].name)


@dataclass(frozen=True)
class Analysis:
    """What can be removed from a graph, and where it is written down.

    Args:
        view: The graph that was analysed.
        axes: Value -> one axis type per dimension.
        classes: The open classes, in the order of the graph.
        frozen: The frozen axes of stored tensors, likewise.
        sites: Where a size is written down -> the axis that it is the size of.
        quantizers: Value -> how it is rounded.
        opaque: The nodes without a rule.
    """

    view: GraphView = field(repr=False)
    inference: Inference = field(repr=False)
    classes: tuple[PruningClass, ...]
    frozen: tuple[FrozenAxis, ...] = field(repr=False)
    parameters: frozenset[Hashable] = field(repr=False)
    quantizers: Mapping[Any, Quantizer] = field(default_factory=dict, repr=False)

    @property
    def axes(self) -> Mapping[Hashable, Axes]:
        return self.inference.axes

    @property
    def sites(self) -> Mapping[Site, Axis]:
        return self.inference.sites

    @property
    def opened(self) -> list[PruningClass]:
        """Classes that were opened on request, for which masked and sliced differ."""
        return [one for one in self.classes if one.atom in self.inference.opened]

    @cached_property
    def graph(self) -> nx.DiGraph:
        """The folded network as people query and draw it; see `getac.network`."""
        from getac.network import network_of  # networkx only where it is wanted

        return network_of(self)

    @cached_property
    def costs(self) -> Costs:
        """Parameters, bytes, MACs and BOPs: in all, by layer, by unit.

        Counted when first asked for, which must be before the graph is sliced.
        """
        from getac.axes.costs import costs_of  # it is written in terms of this module

        return costs_of(self)

    @property
    def opaque(self) -> list[OpaqueNode]:
        return self.inference.opaque

    def keep_masks(self, value: Hashable, masks: Mapping[Axis, Mask]) -> list[Mask] | None:
        """Which indices of each dimension of a value stay; None where its shape is not known."""
        axes = self.inference.axes.get(value)
        return None if axes is None else [kept(axis, masks) for axis in axes]

    def zero_masks(self, value: Hashable, masks: Mapping[Axis, Mask]) -> list[Mask] | None:
        """As `keep_masks`, for masking: which indices of each dimension of a value are not zeroed."""
        keep = self.keep_masks(value, masks)
        if keep is None or not self.view.is_float(value):
            return None
        spared = self.inference.spared
        return [np.ones_like(mask) if (value, i) in spared else mask for i, mask in enumerate(keep)]


def common_module(names: Sequence[str]) -> str:
    """The path that most names have in common: layer1.0 for layer1.0.conv1.weight and layer1.0.bn1.bias."""
    every = [name.split(".")[:-1] for name in names]
    [(top, count)] = Counter(tuple(path[:1]) for path in every).most_common(1)
    if 2 * count <= len(names):
        return ""
    paths = [path for path in every if tuple(path[:1]) == top]
    first, last = min(paths), max(paths)  # what these two share, all between them do
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return ".".join(part for part, _ in same)


def analyze_view(
    view: GraphView, wishes: Wishes = NO_WISHES, quantizers: Mapping[Any, Quantizer] | None = None
) -> Analysis:
    """Infers the axes of a graph and collects them into classes.

    Both classes and frozen axes need a float parameter among their members: an axis that only activations
    or lists of integers have holds nothing that could be removed.

    Args:
        quantizers: Value -> how it is rounded, for bit operations and bytes.
    """
    inference = infer(view, wishes)
    check_masking(view, inference)
    members: dict[Axis, list[Member]] = {}
    for value in view.parameters:
        name = view.name_of(value)
        for dimension, axis in enumerate(inference.axes.get(value, ())):
            if axis.size > 1:
                member = Member(value, name, dimension, axis)
                for leaf in dict.fromkeys(leaves(axis)):
                    if leaf.size > 1:
                        members.setdefault(leaf, []).append(member)
    roles = name_atoms(inference.roles, inference.layers)
    classes: list[PruningClass] = []
    frozen: list[FrozenAxis] = []
    for leaf, where in members.items():
        if not any(view.is_float(member.parameter) for member in where):
            continue
        if leaf.frozen is not None:
            frozen.append(FrozenAxis(leaf.size, leaf.frozen, tuple(where)))
        else:
            role = roles.get(leaf, UNITS)
            spared = tuple(one for one in where if (one.parameter, one.dimension) in inference.spared)
            zeroed = tuple(one for one in where if one not in spared) if spared else tuple(where)
            classes.append(PruningClass(f"c{len(classes)}", role, leaf, zeroed, spared))
    return Analysis(
        view, inference, tuple(classes), tuple(frozen), frozenset(view.parameters), quantizers or {}
    )
