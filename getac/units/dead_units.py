"""Units that a model can do without: every sum that they go into does not notice, or its bias makes up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from getac.axes.analysis import Analysis
from getac.axes.axis import Axis, Mask, kept, leaves, units
from getac.axes.slabs import Contraction
from getac.units.choice import BiasFold

__all__ = ["bias_folds", "removable_units"]


def removable_units(analysis: Analysis, contractions: Sequence[Contraction]) -> dict[Axis, Mask]:
    """Class atom -> which of its units every sum that they go into can do without."""
    removable = {one.atom: np.zeros(one.size, dtype=np.bool_) for one in analysis.classes}
    for atom in {leaf for c in contractions for leaf in leaves(c.axis)} & removable.keys():
        removable[atom][:] = True  # a class that nothing sums over never leaves the graph
    for contraction in contractions:
        for leaf in dict.fromkeys(leaves(contraction.axis)):
            if leaf in removable:
                for owner in units(contraction.axis, leaf):
                    needed = owner[(owner >= 0) & ~contraction.removable]
                    removable[leaf][needed] = False
    return removable


def bias_folds(contractions: Sequence[Contraction], masks: Mapping[Axis, Mask]) -> Iterator[BiasFold]:
    """What the removed units' constants add to the sums that lose them."""
    for contraction in contractions:
        constants = np.where(kept(contraction.axis, masks), 0.0, contraction.constants)
        if constants.any():
            yield BiasFold(contraction.node, constants)
