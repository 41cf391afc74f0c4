"""Units that go together because they share the steps of a quantizer's blocks.

    W (K, N), a step for each column and 32 rows        units 0 ... 31 of the K go together, or none of them

A block that lost some of its rows could be no block of the smaller matrix: from there on every row would need
steps of its own, which weigh more than the rows did.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from getac.axes.analysis import Analysis
from getac.axes.axis import Axis, Mask, leaves, units

__all__ = ["CUT", "STAYS", "Bundling", "bundles_of"]

Integers = npt.NDArray[np.int64]

STAYS = -1
"""The bundle of units that cannot go: their blocks hold indices that are not theirs."""


CUT = "getac.cut"
"""Marks a stored tensor, in its `meta`, whose blocks lost some of their units all the same."""


@dataclass(frozen=True, eq=False)
class Bundling:
    """How the units of a class go together.

    Args:
        of: The bundle of each unit, or STAYS.
        blocks: The names of the tensors whose blocks they share -> the size of these.
    """

    of: Integers
    blocks: Mapping[str, int]

    @property
    def reason(self) -> str:
        """Why units stay that could go but for the others in their blocks."""
        tensors = ", ".join(f"{name} (blocks of {block})" for name, block in self.blocks.items())
        return f"share steps of {tensors} with what stays"

    def among(self, wanted: Mask) -> Integers:
        """The bundles, where only some units are wanted: the others stay, and their bundles with them."""
        return np.where(np.isin(self.of, self.of[~wanted]), STAYS, self.of)

    def held(self, wanted: Mask) -> int:
        """How many of the wanted units cannot go: others of their bundle stay, or there is no other."""
        bundles = self.among(wanted)
        alone = bool((bundles == bundles[0]).all())
        return int(wanted.sum()) if alone else int((wanted & (bundles == STAYS)).sum())


@dataclass(frozen=True, eq=False)
class Occurrence:
    """Where a class lies in a dimension that is cut into blocks.

    Args:
        units: Some units of the class, each with the block that it lies in.
        blocks: Likewise; numbers count through all dimensions.
        mixed: The blocks that also hold indices of other classes, or of none.
    """

    units: Integers
    blocks: Integers
    mixed: Integers

    @classmethod
    def of(cls, axis: Axis, atom: Axis, block: int, first: int) -> Occurrence:
        owners = np.stack(units(axis, atom))
        blocks = np.broadcast_to(np.arange(axis.size) // block + first, owners.shape)
        owned = owners >= 0
        return cls(owners[owned], blocks[owned], blocks[0][~owned.any(axis=0)])


def bundles_of(analysis: Analysis) -> Mapping[Axis, Bundling]:
    """Class atom -> its bundles, for the classes that lie in blocks of steps.

    A dimension that is a single block is none of these: it stays one, whatever goes.
    """
    found, names, first = (
        defaultdict[Axis, list[Occurrence]](list),
        defaultdict[Axis, dict[str, int]](dict),
        0,
    )
    for value, axis, block in blocked_axes(analysis):
        for atom in dict.fromkeys(leaves(axis)):
            found[atom].append(Occurrence.of(axis, atom, block, first))
            names[atom][analysis.view.name_of(value)] = block
        first += -(-axis.size // block)
    sizes = {one.atom: one.size for one in analysis.classes}
    return {
        atom: Bundling(tied(size, found[atom]), names[atom]) for atom, size in sizes.items() if atom in found
    }


def blocked_axes(analysis: Analysis) -> Iterator[tuple[Hashable, Axis, int]]:
    """Tensors, their dimension that is cut into several blocks, and the size of these."""
    for value, record in analysis.quantizers.items():
        axes = analysis.axes.get(value)
        if record.block is not None and record.axis is not None and axes is not None:
            axis = axes[record.axis]
            if 1 < record.block < axis.size:
                yield value, axis, record.block


def tied(size: int, occurrences: list[Occurrence]) -> Integers:
    """The bundle of each of `size` units: the least unit of all that share blocks, directly or in a chain."""
    owners = np.concatenate([one.units for one in occurrences])
    blocks = np.concatenate([one.blocks for one in occurrences])
    bundle = np.arange(size)
    while True:
        least = np.full(blocks.max() + 1, size)
        np.minimum.at(least, blocks, bundle[owners])
        before = bundle.copy()
        np.minimum.at(bundle, owners, least[blocks])
        if (bundle == before).all():
            break
    mixed = np.isin(blocks, np.concatenate([one.mixed for one in occurrences]))
    return np.where(np.isin(bundle, bundle[owners[mixed]]), STAYS, bundle).astype(np.int64)
