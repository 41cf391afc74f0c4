"""ONNX operators that compute nothing: every entry of their results is one of their first input's.

What they make of rounded numbers is on the same lattice, and what they make of numbers that are never
negative never is either. (`getac.rules.picking` says it of the rules, for both kinds of graph.)
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

__all__ = [
    "REARRANGING",
    "is_moved_across",
    "may_be_crossed",
    "moved_up_to",
    "rearranges",
    "rounded_by_pair",
]

REARRANGING = frozenset(
    (
        *("Reshape", "Flatten", "Squeeze", "Unsqueeze"),
        *("Transpose", "DepthToSpace", "SpaceToDepth"),
        *("Slice", "Split", "Gather", "GatherElements", "Expand", "Tile", "Resize"),
    )
)

MOVED_ACROSS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice")

MAY_BE_CROSSED = (
    *("Dropout", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Slice", "Split"),
    *("Squeeze", "Tile", "Transpose", "Unsqueeze"),
)
"""What a pair must be kept from moving across, in one version of onnxruntime or another."""


def is_moved_across(node: ir.Node) -> bool:
    """Whether onnxruntime itself moves the pair in front of a node behind it (QDQPropagationTransformer).

    Of the operators that rearrange, it knows these alone (1.23 and 1.31).
    """
    return node.op_type in MOVED_ACROSS and node.domain in ("", "ai.onnx")


def may_be_crossed(node: ir.Node) -> bool:
    return node.op_type in MAY_BE_CROSSED and node.domain in ("", "ai.onnx")


def rounded_by_pair(value: ir.Value | None) -> bool:
    """Whether a value is what a DequantizeLinear makes, as it is or moved about."""
    node = None if value is None else value.producer()
    if node is None:
        return False
    crossed = may_be_crossed(node) and rounded_by_pair(node.inputs[0])
    return crossed or node.op_type == "DequantizeLinear"


def moved_up_to(value: ir.Value) -> Iterator[ir.Value]:
    """What a QuantizeLinear behind a value may be moved up to; clipping in front of it is taken away.

    onnxruntime does so although these are graph outputs (1.31, across a Transpose), and rounds them.
    """
    node = value.producer()
    while node is not None and (may_be_crossed(node) or node.op_type in ("Relu", "Clip")):
        x = node.inputs[0]
        if x is None:
            return
        yield x
        node = x.producer()


def rearranges(node: ir.Node) -> bool:
    """Whether every entry of a node's results is one of its first input's."""
    if node.op_type not in REARRANGING or node.domain not in ("", "ai.onnx"):
        return False
    return node.op_type != "Resize" or takes_nearest(node)


def takes_nearest(resize: ir.Node) -> bool:
    """Whether a Resize neither interpolates nor makes up what lies outside."""
    mode = resize.attributes.get_string("mode", "nearest")
    outside = resize.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    return mode == "nearest" and outside != "tf_crop_and_resize"
