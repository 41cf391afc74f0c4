"""Reports as tables on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from getac.axes.meter import Cost, LayerCost
from getac.inspection import Inspection, MemberEntry
from getac.onnx_graph.suboptimal import Finding
from getac.report import LayerReport, Report

__all__ = ["add_row", "inspection_tables", "plain_table", "report_tables", "text_table", "totals_table"]

SHOWN_MEMBERS = 3
SHOWN_FROZEN = 40
SHOWN_LAYERS = 60
COSTS = ("parameters", "bytes", "MACs", "BOPs")


def report_tables(report: Report) -> RenderableType:
    """The report: layers, totals, agreement, and what was left as it was."""
    return Group(layer_table(report.layers), totals_table(report), *notes(report))


def layer_table(layers: Sequence[LayerReport]) -> Table:
    table = plain_table("layer", "in", "out", "MACs", "bytes", "bits", "stored as", "ms", "runs as")
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
            row.storage,
            "" if row.predicted_ms is None else f"{row.predicted_ms:.2g}",
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
    if report.storage_ratio is not None:
        yield Text(f"the file takes {report.storage_ratio:.2f} bytes for 8 bits of parameters")
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
    """Classes, frozen axes, layers, quantizers, and operators without a rule."""
    total = inspection.total
    share = inspection.prunable / total.parameters if total.parameters else 0.0
    head = Text(
        f"{inspection.source}: {count(total.parameters)} parameters in {count(total.bytes)} bytes,"
        f" {share:.0%} of them in tensors with an open class; {count(total.macs)} MACs and"
        f" {count(total.bops)} BOPs per sample; {len(inspection.classes)} classes,"
        " each with what one unit costs"
    )
    classes = plain_table("class", "units", *COSTS, "members")
    one_line_each(classes)
    for one in inspection.classes:
        units, members = f"{one.units} {one.role}", member_list(one.members, one.module)
        name = f"{one.name} (opened)" if one.opened else one.name
        add_row(classes, name, units, *cost_cells(one.per_unit), members)
    frozen = plain_table("frozen", "why", "node", "members")
    for entry in inspection.frozen[:SHOWN_FROZEN]:
        add_row(frozen, str(entry.units), entry.reason, entry.node, member_list(entry.members))
    warnings = [Text(warning, style="yellow") for warning in inspection.warnings]
    findings = map(finding_line, inspection.suboptimal)
    parts: list[RenderableType] = [head, *warnings, *findings, classes, frozen]
    hints = {entry.reason: entry.hint for entry in reversed(inspection.frozen)}  # the first of each reason
    parts.extend(Text(f"{reason}: {hint}", style="dim") for reason, hint in hints.items())
    if len(inspection.frozen) > SHOWN_FROZEN:
        parts.append(Text(f"and {len(inspection.frozen) - SHOWN_FROZEN} more frozen axes; --json has all"))
    parts.append(layer_cost_table(inspection.layers[:SHOWN_LAYERS]))
    if len(inspection.layers) > SHOWN_LAYERS:
        parts.append(Text(f"and {len(inspection.layers) - SHOWN_LAYERS} more layers; --json has all"))
    if inspection.quantizers:
        parts.append(quantizer_table(inspection))
    shown = {*(one.node for one in inspection.frozen), *(one.name for one in inspection.layers)}
    shown |= {one.where for many in inspection.refusals.values() for one in many}
    origins = {name: origin for name, origin in inspection.origins.items() if name in shown}
    parts.extend(Text(origin_line(name, origin), style="dim") for name, origin in origins.items())
    for name, many in inspection.refusals.items():
        parts.extend(Text(f"{name}: {one.where}: {one.reason}", style="dim") for one in many)
    return Group(*parts)


def origin_line(name: str, origin: str) -> str:
    """What a node was made for; of one of the file itself, the passes that changed it."""
    return origin if origin.startswith(f"{name} (after ") else f"{name}: made for {origin}"


def layer_cost_table(layers: Sequence[LayerCost]) -> Table:
    table = plain_table("layer", "in", "out", *COSTS, "operator")
    for layer in layers:
        channels = str(layer.channels_in), str(layer.channels_out)
        add_row(table, layer.name, *channels, *cost_cells(layer.cost), layer.operator)
    return table


def cost_cells(cost: Cost) -> tuple[str, ...]:
    """In the order of `COSTS`."""
    return tuple(map(count, (cost.parameters, cost.bytes, cost.macs, cost.bops)))


def quantizer_table(inspection: Inspection) -> Table:
    table = plain_table("quantized value", "bits", "integers", "steps")
    for name, entry in inspection.quantizers.items():
        steps = entry["step"]
        shown = f"{len(steps)} along dimension {entry['axis']}" if isinstance(steps, list) else f"{steps:.4g}"
        add_row(table, name, str(entry["bits"]), f"{entry['low']} to {entry['high']}", shown)
    return table


def member_list(members: Sequence[MemberEntry], module: str = "") -> str:
    """The first members, by their names within the module."""
    names = [member.parameter.removeprefix(f"{module}.") for member in members[:SHOWN_MEMBERS]]
    pairs = zip(names, members, strict=False)
    shown = ", ".join(f"{name}[{member.dimension}] {member.type}" for name, member in pairs)
    more = len(members) - SHOWN_MEMBERS
    where = f"{module}: " if module else ""
    return f"{where}{shown} and {more} more" if more > 0 else f"{where}{shown}"


def finding_line(one: Finding) -> Text:
    shown = ", ".join(one.nodes[:SHOWN_MEMBERS])
    rest = len(one.nodes) - SHOWN_MEMBERS
    more = f" and {rest} more" if rest > 0 else ""
    return Text(f"lower would mend: {one.what} ({shown}{more})", style="yellow")


def plain_table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for position, column in enumerate(columns):
        table.add_column(
            column, overflow="fold", justify="left" if position in (0, len(columns) - 1) else "right"
        )
    return table


def text_table(*columns: str) -> Table:
    """A table of words: all to the left, the second column as wide as there is room, the others whole."""
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for position, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=position != 1, ratio=1 if position == 1 else None)
    return table


def one_line_each(table: Table) -> None:
    """Gives the last column what width is left, and cuts it there."""
    table.expand = True
    last = table.columns[-1]
    last.no_wrap, last.overflow, last.ratio, last.min_width = True, "ellipsis", 1, 20


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
