"""`getac apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from getac.cli.arguments import ModelPath, Seed
from getac.cli.console import output_console, progress_of

__all__ = ["apply"]


def apply(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="What getac lower --plan wrote.")],
    model: ModelPath,
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file to write.")],
    calibration: Annotated[
        Path | None,
        typer.Option(help="Samples, to measure ranges anew: an .npz with one array per input, or a folder."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    ranges: Annotated[
        str, typer.Option(help="How ranges are estimated where there is data: minmax, percentile or mse.")
    ] = "minmax",
    target: Annotated[
        str, typer.Option(help="Who loads the result: portable (opset 21), or ort (onnxruntime alone).")
    ] = "portable",
    bench: Annotated[bool, typer.Option(help="Measure latency before and after.")] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Write the result even if it does not verify.")
    ] = False,
    seed: Seed = 0,
) -> None:
    """Carry out a plan on another checkpoint of the same structure: the same units, the same bits."""
    from getac.plans.applying import apply as run
    from getac.tables import report_tables

    console = output_console()
    with progress_of(console) as callbacks:
        found = run(
            plan,
            model,
            output,
            calibration=calibration,
            report=report,
            ranges=ranges,
            target=target,
            bench=bench,
            force=force,
            seed=seed,
            **callbacks,
        )
    console.print(report_tables(found))
