"""Which node a node's entries are taken from, in a captured graph: operators that compute nothing.

A value that they make of a quantized one lies on its lattice, and needs no quantizer of its own.
"""

from __future__ import annotations

import math
import operator

from torch import fx

from getac.fx_graph.call import is_tensor
from getac.fx_graph.operators import call_of
from getac.fx_graph.reader import operator_name
from getac.rules.base import Rule
from getac.rules.elementwise import Elementwise
from getac.rules.indexing import Index
from getac.rules.layout import Expand, Reshape, Transpose
from getac.rules.parts import Split
from getac.rules.picking import picks, rearranges
from getac.rules.rearrange import Unbind

__all__ = ["dimension_before", "is_copy", "is_dropout", "picked_from", "rearranged_from", "rule_of"]


def rule_of(node: fx.Node) -> Rule | None:
    call = call_of(node)
    return call.rule if call else None


def is_dropout(node: fx.Node) -> bool:
    """Whether training sets entries to zero, and scales the others; evaluation changes nothing."""
    return operator_name(node).removesuffix("_") in ("aten.dropout", "aten.feature_dropout")


def shifts_in_training(node: fx.Node) -> bool:
    """Whether it is a dropout that writes other numbers than zero."""
    return "dropout" in operator_name(node) and not is_dropout(node)


def is_copy(node: fx.Node) -> bool:
    """A cast, a clone, a change of layout in memory."""
    return (
        isinstance(rule_of(node), Elementwise)
        and rearranges(rule_of(node))
        and "dropout" not in operator_name(node)
    )


def rearranged_from(node: fx.Node) -> fx.Node | None:
    """The operand that a node holds in another order or shape, or the maxima of; None of others.

    Behind a dropout the range in training would not be the one in evaluation: the quantizer is in front.
    """
    return first_operand(node) if rearranges(rule_of(node)) and not shifts_in_training(node) else None


def picked_from(node: fx.Node) -> fx.Node | None:
    """The node that every entry of a node is taken from, some of them perhaps; None of others."""
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        return node.args[0]  # it has several results
    return first_operand(node) if picks(rule_of(node)) and not shifts_in_training(node) else None


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
