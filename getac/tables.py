"""Reports as tables on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from getac.inspection import Inspection, MemberEntry
from getac.report import LayerReport, Report

__all__ = ["inspection_tables", "report_tables", "totals_table"]

SHOWN_MEMBERS = 3
SHOWN_FROZEN = 40


def report_tables(report: Report) -> RenderableType:
    """The report: layers, totals, agreement, and what was left as it was."""
    return Group(layer_table(report.layers), totals_table(report), *notes(report))


def layer_table(layers: Sequence[LayerReport]) -> Table:
    table = plain_table("layer", "in", "out", "MACs", "bytes", "bits", "runs as")
    for row in layers:
        runs_as = row.kernel + (f": {row.reason}" if row.reason else "")
        add_row(
            table,
            row.name,
            change(row.channels_in_before, row.channels_in),
            change(row.channels_out_before, row.channels_out),
            change(row.macs_before, row.macs, count),
            change(row.bytes_before, row.bytes, count),
            f"{row.weight_bits}/{row.activation_bits}",
            runs_as,
        )
    return table


def totals_table(report: Report) -> Table:
    table = plain_table("", "before", "after", "ratio")
    before, after = report.before, report.after
    for label, old, new in (
        ("parameters", before.parameters, after.parameters),
        ("weight bytes", before.weight_bytes, after.weight_bytes),
        ("file bytes", before.file_bytes, after.file_bytes),
        ("MACs per sample", before.macs, after.macs),
        ("BOPs per sample", before.bops, after.bops),
    ):
        if old is not None and new is not None:
            add_row(table, label, count(old), count(new), f"{old / new:.2f}x" if new else "")
    if report.latency is not None:
        times = report.latency
        add_row(
            table,
            "latency, 1 thread",
            f"{times.before_ms:.3f} ms",
            f"{times.after_ms:.3f} ms",
            f"{times.ratio:.2f}x",
        )
    return table


def notes(report: Report) -> Iterator[Text]:
    yield Text(f"removed {report.units_removed} of {report.units} units ({report.sparsity:.0%})")
    integer = sum(row.kernel.startswith("integer") for row in report.layers)
    yield Text(f"{integer} of {len(report.layers)} layers run as integer kernels")
    for note in report.notes:
        yield Text(note, style="yellow")
    if not report.calibrated:
        yield Text("no calibration data: weights are integers, activations stay in floats", style="yellow")
    found = report.verification
    data = "generated inputs" if found.generated else "calibration data"
    for one in found.sliced:
        yield Text(f"sliced = reference on {one.output}: {one.relative:.1e} relative ({data})")
    for one in found.lowered:
        top1 = f", same top-1 on {one.top1:.1%}" if one.top1 is not None else ""
        yield Text(
            f"lowered against sliced on {one.output}: {one.sqnr_db:.1f} dB, max {one.max_abs:.2g}{top1}"
        )
    for name, many in report.refusals.items():
        for refusal in many:
            hint = f" ({refusal.hint})" if refusal.hint else ""
            yield Text(f"{name}: {refusal.where}: {refusal.reason}{hint}", style="dim")
    if report.output:
        yield Text(
            f"verified and written to {report.output}" if found.passed else f"NOT verified: {report.output}"
        )


def inspection_tables(inspection: Inspection) -> RenderableType:
    """Classes, frozen axes, quantizers, and operators without a rule."""
    share = inspection.prunable / inspection.parameters if inspection.parameters else 0.0
    head = Text(
        f"{inspection.source}: {count(inspection.parameters)} parameters, {share:.0%} of them in tensors"
        f" with an open class; {count(inspection.macs)} MACs per sample; {len(inspection.classes)} classes"
    )
    classes = plain_table("class", "units", "parameters/unit", "MACs/unit", "members")
    for one in inspection.classes:
        parameters, macs = count(one.parameters_per_unit), count(one.macs_per_unit)
        add_row(classes, one.name, f"{one.units} {one.role}", parameters, macs, member_list(one.members))
    frozen = plain_table("frozen", "why", "node", "members")
    for entry in inspection.frozen[:SHOWN_FROZEN]:
        add_row(frozen, str(entry.units), entry.reason, entry.node, member_list(entry.members))
    parts: list[RenderableType] = [head, classes, frozen]
    if len(inspection.frozen) > SHOWN_FROZEN:
        parts.append(Text(f"and {len(inspection.frozen) - SHOWN_FROZEN} more frozen axes; --json has all"))
    if inspection.quantizers:
        parts.append(quantizer_table(inspection))
    for name, many in inspection.refusals.items():
        parts.extend(Text(f"{name}: {one.where}: {one.reason}", style="dim") for one in many)
    return Group(*parts)


def quantizer_table(inspection: Inspection) -> Table:
    table = plain_table("quantized value", "bits", "integers", "steps")
    for name, entry in inspection.quantizers.items():
        steps = entry["step"]
        shown = f"{len(steps)} along dimension {entry['axis']}" if isinstance(steps, list) else f"{steps:.4g}"
        add_row(table, name, str(entry["bits"]), f"{entry['low']} to {entry['high']}", shown)
    return table


def member_list(members: Sequence[MemberEntry]) -> str:
    shown = ", ".join(f"{m.parameter}[{m.dimension}] {m.type}" for m in members[:SHOWN_MEMBERS])
    more = len(members) - SHOWN_MEMBERS
    return f"{shown} and {more} more" if more > 0 else shown


def plain_table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for position, column in enumerate(columns):
        table.add_column(
            column, overflow="fold", justify="left" if position in (0, len(columns) - 1) else "right"
        )
    return table


def add_row(table: Table, *cells: str) -> None:
    """Adds a row; brackets in a name are not markup."""
    table.add_row(*map(Text, cells))


def change(before: int, after: int, show: Callable[[int], str] = str) -> str:
    return show(after) if before == after else f"{show(before)} -> {show(after)}"


def count(number: int) -> str:
    """A number of things in at most four digits."""
    value = float(number)
    for unit in ("", "k", "M", "G", "T"):
        if value < 1000 or unit == "T":
            return f"{value:.0f}{unit}" if unit == "" or value >= 100 else f"{value:.3g}{unit}"
        value /= 1000
    raise AssertionError
