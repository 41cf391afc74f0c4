"""The command line: one command per file, which imports what it runs when it is called."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from typing import Annotated

import typer

from getac.cli import apply, bench, demo, inspect, lower, opt, verify
from getac.cli.console import print_error
from getac.errors import GetacError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Makes trained networks small and fast: prunes channels and heads, lowers the rest to integers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def print_version(wanted: bool) -> None:
    if wanted:
        from getac.plans.plan import versions

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


for command in (
    lower.lower,
    apply.apply,
    inspect.inspect,
    bench.bench,
    verify.verify,
    demo.demo,
    opt.opt,
):  # in the order of --help
    app.command()(command)


def main() -> None:
    """Runs the command line; what users did wrong becomes one paragraph and an exit code."""
    # onnx_ir logs, with tracebacks, what it recovers from: without a handler that would go to stderr.
    logging.getLogger("onnx_ir").addHandler(logging.NullHandler())
    try:
        app()
    except GetacError as error:
        if os.environ.get("GETAC_DEBUG"):  # for authors of passes: what led to it
            traceback.print_exception(error)
        print_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
