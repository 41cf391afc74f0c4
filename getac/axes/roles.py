"""What people call a class: channels, columns, heads. Only names; nothing is decided by them."""

from __future__ import annotations

from collections.abc import Iterable

from getac.axes.axis import Axis, leaves

__all__ = [
    "CHANNELS",
    "COLUMNS",
    "GROUPS",
    "HEADS",
    "HEAD_DIMENSIONS",
    "HIDDEN_UNITS",
    "KV_HEADS",
    "REPEATS",
    "UNITS",
    "name_atoms",
]

HEADS = "heads"
KV_HEADS = "KV heads"
REPEATS = "repeats"
HEAD_DIMENSIONS = "head dimensions"
HIDDEN_UNITS = "hidden units"
GROUPS = "groups"
CHANNELS = "channels"
COLUMNS = "columns"
UNITS = "units"

SPECIFIC_FIRST = (
    KV_HEADS,
    REPEATS,
    HEADS,
    HEAD_DIMENSIONS,
    HIDDEN_UNITS,
    GROUPS,
    CHANNELS,
    COLUMNS,
    UNITS,
)


def name_atoms(roles: Iterable[tuple[Axis, str]]) -> dict[Axis, str]:
    """Atom -> the most specific thing that an operator calls it.

    An axis of several open atoms names none of them, except that heads which are a product are KV heads
    (outermost) and their repeats.
    """
    names: dict[Axis, str] = {}
    for axis, role in roles:
        for leaf, name in named_leaves(axis, role):
            known = names.get(leaf, UNITS)
            names[leaf] = min(known, name, key=SPECIFIC_FIRST.index)
    return names


def named_leaves(axis: Axis, role: str) -> list[tuple[Axis, str]]:
    atoms = [leaf for leaf in dict.fromkeys(leaves(axis)) if leaf.size > 1 and leaf.frozen is None]
    if len(atoms) == 1:
        return [(atoms[0], role)]
    if role == HEADS:
        return [(leaf, REPEATS if position else KV_HEADS) for position, leaf in enumerate(atoms)]
    return []
