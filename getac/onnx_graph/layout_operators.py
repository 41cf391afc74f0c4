"""Operators that put entries elsewhere: parts, padding, reshapes, permutations."""

from __future__ import annotations

from getac.axes.reasons import FOURIER, REVERSED, TRIANGLE
from getac.onnx_graph.node_reader import NodeReader, NotConstant
from getac.onnx_graph.operator_table import Maker, table
from getac.rules.base import Rule
from getac.rules.blocks import DepthToSpace, SpaceToDepth
from getac.rules.layout import Expand, Reshape, Transpose
from getac.rules.parts import Concat, Cut, Slice, Split
from getac.rules.pooling import Pad
from getac.rules.rearrange import Reordered, Tile
from getac.rules.source import Filled, ShapeOf
from getac.rules.windows import Fold

__all__ = ["LAYOUT"]


def pad(n: NodeReader) -> Rule:
    pads, axes = n.numbers(1), n.numbers(3)
    assert pads is not None
    rank = n.rank()
    where = [axis % rank for axis in axes] if axes is not None else list(range(rank))
    amounts = [(0, 0)] * rank
    for position, axis in enumerate(where):
        amounts[axis] = (pads[position], pads[position + len(where)])
    return Pad(tuple(amounts), zeros=n.text("mode", "constant") == "constant")


CROPPED = (-1, -1)  # it may be, which the sizes tell when the graph runs


def crop_or_pad(n: NodeReader) -> Rule:
    rank = n.rank()
    axes = n.integers("axes")
    where = range(rank) if axes is None else [axis % rank for axis in axes]
    return Pad(tuple(CROPPED if dimension in where else (0, 0) for dimension in range(rank)))


def concat(n: NodeReader) -> Rule:
    return Concat(axis=n.axis(0))


def split(n: NodeReader) -> Rule:
    if n.input(1) is not None and not n.is_stored(1):
        raise NotConstant("the sizes of its parts are computed")
    return Split(axis=n.axis(0))


def slice_(n: NodeReader) -> Rule:
    starts, ends, axes, steps = (n.numbers(index) for index in (1, 2, 3, 4))
    assert starts is not None and ends is not None
    sizes = n.sizes()
    axes = tuple(axis % len(sizes) for axis in axes) if axes is not None else tuple(range(len(starts)))
    steps = steps if steps is not None else (1,) * len(starts)
    fixed = not (n.is_stored(1) and n.is_stored(2))
    return Slice(
        tuple(
            Cut(axis, *slice(start, end, step).indices(sizes[axis]), entry, start < 0, end < 0, fixed)
            for entry, (axis, start, end, step) in enumerate(zip(axes, starts, ends, steps, strict=True))
        )
    )


def reshape(n: NodeReader) -> Rule:
    entries = n.is_integer() and n.rank() <= 1
    return Reshape(shape_input=1, copies_zeros=not n.integer("allowzero", 0), keeps_entries=entries)


def squeeze(n: NodeReader) -> Rule:
    if n.numbers(1) is None:  # a dimension that is cut to one unit would go, too
        raise NotConstant("it removes every dimension of size 1")
    return Reshape(keeps_entries=True)


def regroup(n: NodeReader) -> Rule:
    return Reshape(keeps_entries=True)


def transpose(n: NodeReader) -> Rule:
    return Transpose(n.integers("perm") or tuple(reversed(range(n.rank()))))


def expand(n: NodeReader) -> Rule:
    return Expand()


def tile(n: NodeReader) -> Rule:
    return Tile()


def depth_to_space(n: NodeReader) -> Rule:
    return DepthToSpace(n.integer("blocksize", 1), outer=n.text("mode", "DCR") == "DCR")


def space_to_depth(n: NodeReader) -> Rule:
    return SpaceToDepth(n.integer("blocksize", 1), outer=True)


def fold(n: NodeReader) -> Rule:
    window = 1
    for size in n.numbers(2) or ():
        window *= size
    return Fold(window)


def trilu(n: NodeReader) -> Rule:
    return Reordered((n.rank() - 2, n.rank() - 1), TRIANGLE, zeros=True)


def reverse_sequence(n: NodeReader) -> Rule:
    time = n.integer("time_axis", 0)
    return Reordered((time, n.integer("batch_axis", 1)), REVERSED)


def fourier(n: NodeReader) -> Rule:
    """The last dimension holds the real and the imaginary part."""
    axes = n.numbers(2) or (-2,)
    return Reordered((axes[0] % n.rank(), n.rank() - 1), FOURIER, zeros=True)


def shape(n: NodeReader) -> Rule:
    start, stop, _ = slice(n.integer("start", 0), n.integer("end", n.rank())).indices(n.rank())
    return ShapeOf(start, stop)


def filled(n: NodeReader) -> Rule:
    value = n.node.attributes["value"].as_tensor().numpy().reshape(-1)[0] if n.has("value") else 0.0
    return Filled(float(value))


LAYOUT: dict[str, Maker] = table(
    {
        depth_to_space: "DepthToSpace",
        space_to_depth: "SpaceToDepth",
        tile: "Tile",
        trilu: "Trilu",
        reverse_sequence: "ReverseSequence",
        fourier: "DFT",
        fold: "Col2Im",
        crop_or_pad: "CenterCropPad",
        pad: "Pad",
        concat: "Concat",
        split: "Split",
        slice_: "Slice",
        reshape: "Reshape",
        regroup: "Flatten Unsqueeze",
        squeeze: "Squeeze",
        transpose: "Transpose",
        expand: "Expand",
        shape: "Shape",
        filled: "ConstantOfShape",
    }
)
