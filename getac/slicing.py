"""Cuts chosen units out of a graph: the same steps for both graphs, which differ in how they are edited."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Protocol

from getac.axes.analysis import Analysis
from getac.axes.axis import Axis, Mask, kept
from getac.axes.contents import Site

__all__ = ["GraphEditor", "SizeChange", "cut_units", "smaller"]

SizeChange = tuple[int, int]
"""A size before and after."""


class GraphEditor(Protocol):
    """What slicing needs to be able to write."""

    def cut(self, parameter: Hashable, masks: Sequence[Mask]) -> None:
        """Keeps the marked indices of each dimension of a stored tensor."""
        ...

    def write_sizes(self, sizes: Mapping[Site, SizeChange]) -> None:
        """Rewrites the sizes that stand in the graph; some may not have changed."""
        ...

    def write_numbers(self, numbers: Mapping[Site, float]) -> None:
        """Writes down numbers that would else follow from a size that changes; comes before the sizes."""
        ...


def smaller(analysis: Analysis, masks: Mapping[Axis, Mask]) -> dict[Hashable, Sequence[Mask]]:
    """The stored tensors that lose something -> which indices of each dimension stay.

    Args:
        masks: Class atom -> which units stay.
    """
    keep = {parameter: analysis.keep_masks(parameter, masks) for parameter in analysis.parameters}
    return {one: dims for one, dims in keep.items() if dims and not all(mask.all() for mask in dims)}


def cut_units(editor: GraphEditor, analysis: Analysis, masks: Mapping[Axis, Mask]) -> None:
    """Cuts units out of every stored tensor and rewrites every size that they change.

    Args:
        masks: Class atom -> which units stay.
    """
    for parameter, keep in smaller(analysis, masks).items():
        editor.cut(parameter, keep)
    sizes = {site: (axis.size, int(kept(axis, masks).sum())) for site, axis in analysis.sites.items()}
    derived = analysis.inference.derived
    editor.write_numbers({s: d.value for s, d in derived.items() if not kept(d.axis, masks).all()})
    editor.write_sizes(sizes)
