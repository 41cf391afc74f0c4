"""Which values of a captured graph cannot be negative, by the operators that they come from."""

from __future__ import annotations

import operator

from torch import fx

from getac.fx_graph.call import is_tensor
from getac.fx_graph.operators import call_of
from getac.fx_graph.reader import CallReader, operator_name
from getac.rules.layout import Expand, Reshape, Transpose
from getac.rules.parts import Concat, Gather, Slice, Split
from getac.rules.pooling import Pad, Spatial
from getac.rules.rearrange import Stack, Unbind
from getac.rules.reduction import Reduction
from getac.training.carrying import picked_from

__all__ = ["non_negative_values"]

NEVER_NEGATIVE = "relu relu6 sigmoid hardsigmoid softmax _softmax softplus abs exp exp2 square"
CLAMPING = "clamp clamp_min clip hardtanh"
KEEPING = (Reshape, Transpose, Expand, Concat, Split, Slice, Gather, Stack, Unbind, Spatial, Reduction, Pad)
OF_OPERANDS = "add mul div sqrt maximum minimum"
OVERSHOOTING = "bicubic"


def non_negative_values(graph: fx.Graph) -> set[fx.Node]:
    """Values without a negative number, whatever the graph's inputs and parameters are."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "call_function" and (cuts_at_zero(node) or keeps_sign(node, found)):
            found.add(node)
    return found


def name_of(node: fx.Node) -> str:
    return operator_name(node).removeprefix("aten.").removesuffix("_")


def cuts_at_zero(node: fx.Node) -> bool:
    name = name_of(node)
    if name in CLAMPING.split():
        arguments = CallReader(node).arguments
        least = arguments.get("min", arguments.get("min_val"))
        return isinstance(least, int | float) and least >= 0
    return name in NEVER_NEGATIVE.split()


def keeps_sign(node: fx.Node, found: set[fx.Node]) -> bool:
    """Whether a node makes nothing negative, and reads nothing negative."""
    if node.target is operator.getitem:
        return node.args[0] in found
    call, name = call_of(node), name_of(node)
    if call is None or OVERSHOOTING in name:
        return False
    keeps = isinstance(call.rule, KEEPING) or name in OF_OPERANDS.split()
    if not keeps and picked_from(node) is None:
        return False
    read = [one for one in call.operands if one is not None and not is_index(one)]
    return bool(read) and found.issuperset(read) and not has_negative_number(node)


def is_index(operand: fx.Node) -> bool:
    return is_tensor(operand) and not operand.meta["val"].is_floating_point()


def has_negative_number(node: fx.Node) -> bool:
    """Whether a number among the arguments is negative: of x * -1, or what a pad fills in."""
    numbers = [CallReader(node).arguments.get(name) for name in ("other", "alpha", "value")]
    return any(isinstance(one, int | float) and one < 0 for one in numbers)
