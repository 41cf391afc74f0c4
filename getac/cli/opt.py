"""`getac opt`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from getac.cli.arguments import Calibration
from getac.cli.console import output_console
from getac.errors import OptionError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from rich.table import Table

    from getac.pipeline import Fact
    from getac.pipelines.optimizing import Optimized
    from getac.pipelines.verifying import Check

__all__ = ["opt"]


def opt(
    model: Annotated[Path | None, typer.Argument(metavar="MODEL", help="The ONNX file to read.")] = None,
    passes: Annotated[
        list[str] | None,
        typer.Option("--passes", "-p", help="Passes in order: name,name{option=value}; repeatable."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The ONNX file to write.")] = None,
    calibration: Calibration = None,
    print_after: Annotated[
        list[str] | None, typer.Option(help="Print the graph after this pass, or after all; repeatable.")
    ] = None,
    time: Annotated[bool, typer.Option("--time", help="Print what each pass took.")] = False,
    verify_each: Annotated[
        bool, typer.Option("--verify-each", help="Run the model before and after every pass, and compare.")
    ] = False,
    dump_dir: Annotated[Path | None, typer.Option(help="Write the model after every pass here.")] = None,
    reduce: Annotated[
        Path | None,
        typer.Option(help="If the pipeline fails, write the smallest part of the model on which it does."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write what happened as JSON.")] = None,
    list_passes: Annotated[
        bool, typer.Option("--list-passes", help="Show every pass, its options, needs and gives, and exit.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="For the inputs that --verify-each generates.")] = 0,
) -> None:
    """Run passes on a model, getac's or your own, and write what comes out."""
    console = output_console()
    if list_passes:
        console.print(pass_table())
        return
    if model is None or not passes:
        raise OptionError(
            "there is nothing to run",
            required='a model and passes, such as getac opt model.onnx -p "fold-quantizers,fold-batch-norm"',
            hint="getac opt --list-passes shows the passes",
        )
    from getac.pipelines.optimizing import optimize
    from getac.pipelines.registry import check_names
    from getac.pipelines.showing import ALL, Dumped, Printed

    pipeline = ",".join(passes)
    if reduce is not None:
        others = {"-o": output, "--json": json, "--time": time, "--print-after": print_after}
        refuse_beside_reduce({**others, "--dump-dir": dump_dir})
        report_reduced(model, pipeline, reduce, verify_each, calibration, seed)
        return
    shown = print_after or []
    check_names(pipeline, [name for name in shown if name != ALL])
    watchers = [
        *([Printed(shown, typer.echo)] if shown else []),
        *([Dumped(dump_dir, inputs=[model])] if dump_dir else []),
    ]
    found = optimize(
        model,
        pipeline,
        output,
        calibration=calibration,
        report=json,
        verify_each=verify_each,
        watchers=watchers,
        seed=seed,
    )
    console.print(record_table(found, time))
    ran = {record.name for record in found.passes}
    for name in [name for name in shown if name not in {*ran, ALL}]:
        console.print(f"{name} did not run: there is nothing to print after it", markup=False)
    for line in refusal_lines(found):
        console.print(line, markup=False, highlight=False)


def refuse_beside_reduce(options: Mapping[str, object]) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        raise OptionError(
            "--reduce writes the part of the model that fails, and nothing else",
            required="--reduce without these",
            found=", ".join(given),
        )


def report_reduced(
    model: Path, passes: str, output: Path, verify_each: bool, calibration: Path | None, seed: int
) -> None:
    """Reduces the failure, says how far, and fails as the pipeline does on the part."""
    from getac.pipelines.optimizing import reduce_failure

    found = reduce_failure(model, passes, output, verify_each=verify_each, calibration=calibration, seed=seed)
    before, after = found.nodes
    typer.echo(f"{output}: {after} of {before} nodes still fail ({found.tries} parts tried)")
    raise found.part_error


def pass_table() -> Table:
    """Every pass with its one-line description, options, needs, gives and effect."""
    from getac.pipelines.registry import built_in_passes, installed_passes
    from getac.pipelines.standard import PIPELINES
    from getac.tables import add_row, text_table

    table = text_table("pass", "what it does", "options", "needs", "gives", "effect")
    for name, kind in {**built_in_passes(), **PIPELINES}.items():
        add_row(table, name, *declared_cells(kind))
    for name, entry in installed_passes().items():
        add_row(table, name, *installed_cells(entry))
    return table


def declared_cells(kind: Any) -> Iterator[str]:
    """What a pass, or a named pipeline, declares."""
    from getac.pipelines.declaration import options_of, summary_of

    yield summary_of(kind)
    yield "\n".join(map(str, options_of(kind).values()))
    yield facts_text(getattr(kind, "needs", ()))
    yield facts_text(getattr(kind, "gives", ()))
    effect = getattr(kind, "effect", None)
    yield effect.name.lower() if effect is not None else "none"


def installed_cells(entry: EntryPoint) -> list[str]:
    """The same of a pass of an installed package; a pass that cannot be used does not hide the others."""
    from getac.pipelines.registry import checked_class, load_entry

    try:
        found = load_entry(entry)
        if isinstance(found, type):
            return list(declared_cells(checked_class(found, entry.name)))
    except OptionError as error:
        return [f"{error.message}: {error.found} ({entry.value})", "", "", "", ""]
    return [f"the function {entry.value}", "effect: none|kernels|...=none", "", "", "none"]


def facts_text(facts: Iterable[Fact]) -> str:
    """A fact per line, such as "batch norms folded"."""
    return "\n".join(sorted(fact.name.lower().replace("_", " ") for fact in facts))


def record_table(found: Optimized, time: bool) -> Table:
    """What ran, in order."""
    from getac.tables import add_row, plain_table

    checks = dict(enumerate(found.checks))
    table = plain_table("pass", "graph", *(["ms"] if time else []), *(["agreement"] if checks else []))
    for position, record in enumerate(found.passes):
        name = f"{record.name} (added)" if record.added else record.name
        cells = [name, "changed" if record.changed else "as it was"]
        cells += [f"{record.seconds * 1e3:.1f}"] if time else []
        cells += [agreement_cell(checks[position])] if position in checks else []
        add_row(table, *cells)
    return table


def agreement_cell(check: Check) -> str:
    return "not compared" if check.worst is None else f"{check.worst.sqnr_db:.0f} dB"


def refusal_lines(found: Optimized) -> Iterator[str]:
    for name, many in found.refusals.items():
        for one in many:
            yield f"{name}: {one.where}: {one.reason}" + (f" ({one.hint})" if one.hint else "")
