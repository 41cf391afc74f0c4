"""Operators that compute nothing: every entry of their result is one of their operand's.

A value that they make of a quantized one lies on its lattice, and needs no quantizer of its own.
"""

from __future__ import annotations

import math
import operator

from torch import fx

from getac.axes.reasons import REVERSED, ROLLED
from getac.fx_graph.call import is_tensor
from getac.fx_graph.operators import call_of
from getac.fx_graph.reader import operator_name
from getac.rules.base import Rule
from getac.rules.elementwise import Elementwise
from getac.rules.indexing import Index
from getac.rules.layout import Expand, Reshape, Transpose
from getac.rules.parts import Gather, Slice, Split
from getac.rules.pooling import Spatial
from getac.rules.rearrange import (
    ChannelShuffle,
    DepthToSpace,
    Reordered,
    RepeatInterleave,
    SpaceToDepth,
    Tile,
    Unbind,
    Windows,
)

__all__ = ["dimension_before", "is_copy", "is_dropout", "picked_from", "rearranged_from", "rule_of"]

REARRANGING = (Reshape, Transpose, DepthToSpace, SpaceToDepth, ChannelShuffle)  # every entry, once
SELECTING = (Expand, Slice, Split, Unbind, Gather, Index, Tile, RepeatInterleave, Windows)


def rule_of(node: fx.Node) -> Rule | None:
    call = call_of(node)
    return call.rule if call else None


def is_dropout(node: fx.Node) -> bool:
    """Whether training sets entries to zero, and scales the others; evaluation changes nothing."""
    return operator_name(node).removesuffix("_") in ("aten.dropout", "aten.feature_dropout")


def is_maximum(node: fx.Node) -> bool:
    return isinstance(rule_of(node), Spatial) and "max_pool" in operator_name(node)


def is_copy(node: fx.Node) -> bool:
    """A cast, a clone, a change of layout in memory."""
    rule = rule_of(node)
    drops = "dropout" in operator_name(node)
    return isinstance(rule, Elementwise) and rule.value == "first" and not drops


def is_moved(node: fx.Node) -> bool:
    rule = rule_of(node)
    return isinstance(rule, Reordered) and rule.reason in (ROLLED, REVERSED)


def rearranged_from(node: fx.Node) -> fx.Node | None:
    """The operand that a node holds in another order or shape, or the maxima of; None of others.

    Behind a dropout the range in training would not be the one in evaluation: the quantizer is in front.
    """
    is_kind = (is_moved, is_copy, is_maximum, is_dropout)
    rearranges = isinstance(rule_of(node), REARRANGING) or any(is_one(node) for is_one in is_kind)
    return first_operand(node) if rearranges else None


def picked_from(node: fx.Node) -> fx.Node | None:
    """The node that every entry of a node is taken from, some of them perhaps; None of others."""
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        return node.args[0]  # it has several results
    return first_operand(node) if isinstance(rule_of(node), SELECTING) else rearranged_from(node)


def first_operand(node: fx.Node) -> fx.Node | None:
    call = call_of(node)
    first = call.operands[0] if call and call.operands else None
    return first if is_tensor(first) else None


def dimension_before(node: fx.Node, dimension: int | None) -> int | None:
    """The dimension of a node's first operand that a dimension of its result is; None where there is none."""
    rule, x = rule_of(node), first_operand(node)
    if dimension is None or node.target is operator.getitem or isinstance(rule, Split):
        return dimension
    if x is None or isinstance(rule, Unbind):
        return None
    if isinstance(rule, Transpose):
        return rule.permutation[dimension]
    if isinstance(rule, Reshape):
        return same_place(x.meta["val"].shape, node.meta["val"].shape, dimension)
    added = node.meta["val"].ndim - x.meta["val"].ndim
    if isinstance(rule, Expand) or (isinstance(rule, Index) and rule.dimensions == (0,)):
        return dimension - added if dimension >= max(added, isinstance(rule, Index) + added) else None
    return dimension if added == 0 else None


def same_place(before: tuple[int, ...], after: tuple[int, ...], dimension: int) -> int | None:
    """Where a reshape leaves a dimension alone: as many entries lie outside of it, and as many inside."""
    for place, size in enumerate(before):
        outside = math.prod(before[:place]) == math.prod(after[:dimension])
        if size == after[dimension] and outside:
            return place
    return None
