"""The command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from getac.errors import GetacError, OptionError

__all__ = ["app", "main"]

PIPE_WIDTH = 140

app = typer.Typer(
    help="Makes trained networks small and fast: prunes channels and heads, lowers the rest to integers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="The ONNX file to read.")]


KeepGlobs = Annotated[
    list[str] | None, typer.Option("--keep", help="Glob on parameter names that stay whole; repeatable.")
]
PruneGlobs = Annotated[
    list[str] | None,
    typer.Option(
        "--prune",
        help="Glob on parameter names to open although statistics are taken over them, to see what that"
        " would give (lowering keeps them whole); repeatable.",
    ),
]


def print_version(wanted: bool) -> None:
    if wanted:
        from getac.plan import versions

        print(f"getac {versions()['getac']}")
        raise typer.Exit()


@app.callback()
def options(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


@app.command()
def lower(
    model: ModelPath,
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file to write.")],
    sparsity: Annotated[
        str, typer.Option(help="Share of units to remove, in [0, 1); auto: those that are zero already.")
    ] = "auto",
    align: Annotated[
        str, typer.Option(help="Keep channel counts at multiples of this; auto: what the kernels like.")
    ] = "auto",
    calibration: Annotated[
        Path | None,
        typer.Option(help="Samples: an .npz with one array per input, or a folder of them."),
    ] = None,
    ranges: Annotated[
        str, typer.Option(help="How activation ranges are estimated: minmax, percentile or mse.")
    ] = "minmax",
    weight_bits: Annotated[int, typer.Option(help="Bits of weights, 2 to 8.")] = 8,
    activation_bits: Annotated[int, typer.Option(help="Bits of activations, 2 to 8.")] = 8,
    report: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Write every decision as JSON.")] = None,
    bench: Annotated[bool, typer.Option(help="Measure latency before and after.")] = True,
    keep: KeepGlobs = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write the result even if it does not verify.")
    ] = False,
) -> None:
    """Prune a model, lower it to integers, verify the result, and write it."""
    from getac.lowering import lower as run
    from getac.tables import report_tables

    console = output_console()
    with progress_of(console) as callbacks:
        found = run(
            model,
            output,
            calibration=calibration,
            report=report,
            plan=plan,
            sparsity=number_or_auto("--sparsity", sparsity, float),
            align=number_or_auto("--align", align, int),
            ranges=ranges,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            bench=bench,
            keep=tuple(keep or ()),
            force=force,
            **callbacks,
        )
    console.print(report_tables(found))


@app.command()
def inspect(
    model: ModelPath,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    dot: Annotated[Path | None, typer.Option(help="Write the folded network for Graphviz.")] = None,
    keep: KeepGlobs = None,
    prune: PruneGlobs = None,
) -> None:
    """Show the pruning classes, the frozen axes with their reasons, and the quantizers of a model."""
    from getac.inspection import inspect as run

    if dot is not None:
        from getac.onnx_graph.origin import origin_of
        from getac.onnx_graph.read import load
        from getac.onnx_graph.write import check_output

        check_output(dot, [model, *origin_of(load(model)).files])
    found = run(model, keep=keep or (), prune=prune or ())
    if dot is not None:
        from getac.network import to_dot
        from getac.onnx_graph.write import atomic_write_text

        atomic_write_text(dot, to_dot(found.network))
    if json:
        print(found.as_json())
        return
    from getac.tables import inspection_tables

    output_console().print(inspection_tables(found))


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where the files are left.")] = Path("getac-demo"),
) -> None:
    """Train a small network on real digits, lower it, and show what it gained and lost."""
    from getac.demo import run_demo

    run_demo(folder, say=output_console().print)


def number_or_auto(option: str, text: str, kind: type[float] | type[int]) -> Any:
    """ "auto", or the number that was typed."""
    if text == "auto":
        return text
    try:
        return kind(text)
    except ValueError:
        expected = "a number" if kind is float else "a whole number"
        raise OptionError(
            f"{option} is not a number", required=f"{expected}, or auto", found=repr(text)
        ) from None


@contextmanager
def progress_of(console: Console) -> Iterator[dict[str, Any]]:
    """A live line with the step and the samples calibrated; nothing where the output is no terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("read", total=None)

        def on_step(name: str) -> None:
            progress.update(task, description=name)

        def on_sample(done: int, samples: int) -> None:
            progress.update(task, completed=done, total=samples)

        yield {"on_step": on_step, "on_sample": on_sample}


def output_console() -> Console:
    """A console as wide as the terminal; wide enough for a table where there is none."""
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


def main() -> None:
    """Runs the command line; what users did wrong becomes one paragraph and an exit code."""
    try:
        app()
    except GetacError as error:
        Console(stderr=True, soft_wrap=True).print(
            f"getac: {error}", style=None, markup=False, highlight=False
        )
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
