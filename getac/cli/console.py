"""What commands print on: tables, a live line of progress, errors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from getac.errors import GetacError

if TYPE_CHECKING:
    from getac.report import Report

__all__ = ["check_report", "give", "give_lowered", "output_console", "print_error"]

PIPE_WIDTH = 140


class Result(Protocol):
    """What a command found."""

    def as_json(self) -> str: ...


Found = TypeVar("Found", bound=Result)


def output_console() -> Console:
    """A console as wide as the terminal; wide enough for a table where there is none."""
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


def print_error(error: GetacError) -> None:
    """One paragraph on stderr, as it stands: brackets in a name are not markup."""
    Console(stderr=True, soft_wrap=True).print(f"getac: {error}", style=None, markup=False, highlight=False)


def check_report(report: Path | None, inputs: Sequence[Path | None]) -> None:
    """Refuses a report that cannot be written, before anything runs."""
    if report is not None:
        from getac.onnx_graph.write import check_output

        check_output(report, [path for path in inputs if path is not None])


def give(found: Found, tables: Callable[[Found], RenderableType], json: bool, report: Path | None) -> None:
    """Prints what a command found, as tables or as JSON, and writes the report."""
    if report is not None:
        from getac.onnx_graph.write import atomic_write_text

        atomic_write_text(report, found.as_json())
    if json:
        print(found.as_json())
    else:
        output_console().print(tables(found))


def give_lowered(run: Callable[..., Report], typed: Mapping[str, Any]) -> None:
    """Runs what lowers a model, with a live line, and prints its report.

    Args:
        typed: The arguments and options of the command, which are the arguments of the function.
    """
    from getac.tables import report_tables

    console = output_console()
    with progress_of(console) as callbacks:
        found = run(**typed, **callbacks)
    console.print(report_tables(found))


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
