"""Operators that compute nothing: every entry of their results is one of their first operand's.

What they make of a rounded value lies on its lattice: it has as many bits, and needs no quantizer of its own.
"""

from __future__ import annotations

from getac.axes.reasons import REVERSED, ROLLED
from getac.rules.base import Rule
from getac.rules.blocks import DepthToSpace, SpaceToDepth
from getac.rules.elementwise import Elementwise
from getac.rules.indexing import GatherElements, GatherND, Index
from getac.rules.layout import Expand, Reshape, Transpose
from getac.rules.parts import Gather, Slice, Split
from getac.rules.pooling import Spatial
from getac.rules.rearrange import ChannelShuffle, Reordered, RepeatInterleave, Tile, Unbind
from getac.rules.windows import Windows

__all__ = ["picks", "rearranges"]

REARRANGING = (Reshape, Transpose, DepthToSpace, SpaceToDepth, ChannelShuffle)
SELECTING = (
    Expand,
    Slice,
    Split,
    Unbind,
    Gather,
    GatherElements,
    GatherND,
    Index,
    Tile,
    RepeatInterleave,
    Windows,
)


def rearranges(rule: Rule | None) -> bool:
    """Whether a result holds every entry once, or the greatest of each window."""
    match rule:
        case Elementwise(value=value):
            return value == "first"  # a cast, a clone, a dropout in evaluation
        case Reordered(reason=reason):
            return reason in (ROLLED, REVERSED)
        case Spatial(maximum=maximum):
            return maximum
    return isinstance(rule, REARRANGING)


def picks(rule: Rule | None) -> bool:
    """Whether the results hold entries of the first operand alone, some of them perhaps, some repeatedly."""
    return isinstance(rule, SELECTING) or rearranges(rule)
