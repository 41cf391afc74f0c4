"""What people call a class: channels, MLP columns, heads. Only names; nothing is decided by them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from getac.axes.axis import Axis, leaves, terms

__all__ = [
    "CHANNELS",
    "COLUMNS",
    "EMBEDDING",
    "GROUPS",
    "HEADS",
    "HIDDEN_UNITS",
    "PRODUCT_COLUMNS",
    "QK_DIMENSIONS",
    "ROWS",
    "UNITS",
    "UNUSED_ROWS",
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
PRODUCT_COLUMNS = "columns of a product"
UNITS = "units"

UNUSED_ROWS = "unused rows"

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
    MLP_COLUMNS,
    EMBEDDING,
    V_DIMENSIONS,
    COLUMNS,
    ROWS,
    PRODUCT_COLUMNS,
    GROUP_CHANNELS,
    UNITS,
    UNUSED_ROWS,
)

QK_AND_V = {QK_DIMENSIONS, V_DIMENSIONS}
ATTENTION = {KV_HEADS, REPEATS, HEADS, QK_PAIRS, *QK_AND_V}
Layer = tuple[Axis, Axis]


def name_atoms(roles: Iterable[tuple[Axis, str]], layers: Iterable[Layer] = ()) -> dict[Axis, str]:
    """Atom -> the most specific thing that operators call it.

    Args:
        layers: The rows and the columns of each weight.
    """
    called: dict[Axis, set[str]] = {}
    for axis, role in roles:
        call(called, axis, role)
    made: dict[Axis, list[Layer]] = {}
    read: dict[Axis, list[Layer]] = {}
    for layer in distinct(layers):
        into, out = layer
        for leaf in call(called, into, ROWS):
            read.setdefault(leaf, []).append(layer)
        for leaf in call(called, out, COLUMNS):
            made.setdefault(leaf, []).append(layer)
    for leaf in made:
        if called[leaf] <= {ROWS, COLUMNS, UNITS} and are_hidden(called, made[leaf], read.get(leaf, [])):
            called[leaf].add(MLP_COLUMNS)
    return {leaf: most_specific(names) for leaf, names in called.items()}


def distinct(layers: Iterable[Layer]) -> list[Layer]:
    """A weight that several operators use is one layer."""
    return list({(id(into), id(out)): (into, out) for into, out in layers}.values())


def call(called: dict[Axis, set[str]], axis: Axis, role: str) -> list[Axis]:
    """Adds what a role says of the atoms of an axis, and returns those."""
    named = dict(named_leaves(axis, role))
    for leaf, name in named.items():
        called.setdefault(leaf, set()).add(name)
    return list(named)


def most_specific(names: set[str]) -> str:
    merged = {HEAD_DIMENSIONS} if names >= QK_AND_V else set()
    return min(names | merged, key=SPECIFIC_FIRST.index)


def are_hidden(called: Mapping[Axis, set[str]], made: Sequence[Layer], read: Sequence[Layer]) -> bool:
    """Whether columns lie between two layers, neither of which is an attention's projection.

    One layer makes them, or two of equal rows that gate each other; one layer reads them.
    """
    sources, readers = [leaves(into) for into, _ in made], [leaves(out) for _, out in read]
    is_pair = len(sources) == 2 and sources[0] == sources[1]
    if len(readers) != 1 or not (len(sources) == 1 or is_pair):
        return False
    return not any(called.get(leaf, set()) & ATTENTION for leaf in (*sources[0], *readers[0]))


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
