"""What people call a class: channels, MLP columns, heads. Only names; nothing is decided by them."""

from __future__ import annotations

from collections.abc import Iterable

from getac.axes.axis import Axis, leaves, terms

__all__ = [
    "CHANNELS",
    "COLUMNS",
    "EMBEDDING",
    "GROUPS",
    "HEADS",
    "HIDDEN_UNITS",
    "QK_DIMENSIONS",
    "ROWS",
    "UNITS",
    "V_DIMENSIONS",
    "name_atoms",
]

HEADS = "heads"
KV_HEADS = "KV heads"
REPEATS = "repeats"
HEAD_DIMENSIONS = "head dimensions"
QK_DIMENSIONS = "head dimensions (q, k)"
QK_PAIRS = "pairs of head dimensions (q, k)"
V_DIMENSIONS = "head dimensions (v)"
HIDDEN_UNITS = "hidden units"
GROUPS = "groups"
CHANNELS = "channels"
GROUP_CHANNELS = "channels of a group"
MLP_COLUMNS = "MLP columns"
COLUMNS = "columns"
ROWS = "rows"
EMBEDDING = "embedding columns"
UNITS = "units"

SPECIFIC_FIRST = (
    KV_HEADS,
    REPEATS,
    HEADS,
    QK_PAIRS,
    HEAD_DIMENSIONS,
    QK_DIMENSIONS,
    HIDDEN_UNITS,
    GROUPS,
    CHANNELS,
    MLP_COLUMNS,  # before v: a product of any two activations, a graph network's say, looks like one with v
    V_DIMENSIONS,
    EMBEDDING,
    COLUMNS,
    ROWS,
    GROUP_CHANNELS,
)

TOGETHER = (
    ({COLUMNS, ROWS}, MLP_COLUMNS),  # the columns of one layer are the rows of another
    ({QK_DIMENSIONS, V_DIMENSIONS}, HEAD_DIMENSIONS),
)


def name_atoms(roles: Iterable[tuple[Axis, str]]) -> dict[Axis, str]:
    """Atom -> the most specific thing that operators call it."""
    called: dict[Axis, set[str]] = {}
    for axis, role in roles:
        for leaf, name in named_leaves(axis, role):
            called.setdefault(leaf, set()).add(name)
    return {leaf: most_specific(names) for leaf, names in called.items()}


def most_specific(names: set[str]) -> str:
    merged = {name for parts, name in TOGETHER if parts <= names}
    return min(names | merged, key=SPECIFIC_FIRST.index)


def named_leaves(axis: Axis, role: str) -> list[tuple[Axis, str]]:
    """What a role says of the open atoms of an axis; what lies end to end is named part by part."""
    if role == QK_DIMENSIONS:
        halves = open_leaves([axis])
        if len(halves) == 2 and halves[0] is halves[1]:  # a rotary embedding turns two dimensions at once
            return [(halves[0], QK_PAIRS)]
    return [pair for term in terms(axis) for pair in named_factors(term, role)]


def named_factors(factors: list[Axis], role: str) -> list[tuple[Axis, str]]:
    """A product of several open atoms names none of them, except that heads which are a product are KV heads
    (outermost) and their repeats, and that channels are those of a group."""
    atoms = list(dict.fromkeys(open_leaves(factors)))
    if len(atoms) == 1:
        return [(atoms[0], role)]
    if role == HEADS:
        return [(leaf, REPEATS if position else KV_HEADS) for position, leaf in enumerate(atoms)]
    return [(leaf, GROUP_CHANNELS) for leaf in atoms if role == CHANNELS]


def open_leaves(axes: Iterable[Axis]) -> list[Axis]:
    return [leaf for axis in axes for leaf in leaves(axis) if leaf.size > 1 and leaf.frozen is None]
