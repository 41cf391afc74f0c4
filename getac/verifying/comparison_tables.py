"""The numbers of `getac verify` as tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from getac.tables import add_row, plain_table
from getac.verifying.comparison import Comparison, ValueComparison

__all__ = ["comparison_tables"]

SHOWN_VALUES = 200
COLUMNS = ("relative", "max abs", "SQNR dB", "cosine", "equal", "top-1", "steps", "made by")


def comparison_tables(found: Comparison) -> RenderableType:
    """Values inside, if there are any, then the outputs, then the verdict."""
    parts: list[RenderableType] = []
    if found.values:
        parts += [value_table("value", found.values[:SHOWN_VALUES], found.tolerance), Text()]
        if len(found.values) > SHOWN_VALUES:
            parts.append(Text(f"and {len(found.values) - SHOWN_VALUES} more values; --json has all"))
    parts.append(value_table("output", found.outputs, found.tolerance))
    return Group(*parts, Text(), *remarks(found))


def value_table(title: str, values: Sequence[ValueComparison], tolerance: float) -> Table:
    table = plain_table(title, *COLUMNS)
    for one in values:
        departs = one.departs(tolerance)
        add_row(
            table,
            one.name,
            f"{one.relative:.2g}{' !' if departs else '  '}",
            f"{one.max_abs:.2g}",
            f"{one.sqnr_db:.1f}",
            "-" if one.cosine is None else f"{one.cosine:.5f}",
            f"{one.equal:.1%}",
            "-" if one.top1 is None else f"{one.top1:.1%}",
            "-" if one.steps is None else f"{one.steps:.1f}",
            one.node if one.node == one.found_node else f"{one.node} | {one.found_node}",
        )
    return table


def remarks(found: Comparison) -> Iterator[Text]:
    kind = "generated inputs" if found.generated else "data"
    yield Text(f"{found.samples} samples ({kind}); bound {found.tolerance:g} relative: max |a - b| / max |a|")
    if found.skipped:
        some = ", ".join(found.skipped[:3]) + (", ..." if len(found.skipped) > 3 else "")
        yield Text(f"{len(found.skipped)} values of the same name are not comparable: {some}", style="dim")
    if found.departure is not None:
        yield Text(f"the first value that departs: {found.departure}", style="yellow")
    for note in found.notes:
        yield Text(note, style="yellow")
    if found.passed:
        yield Text("the outputs agree")
