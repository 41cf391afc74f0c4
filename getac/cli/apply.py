"""`getac apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from getac.cli.arguments import Bench, Force, LoweringReport, ModelPath, OutputFile, Seed, Target
from getac.cli.console import give_lowered

__all__ = ["apply"]

PlanPath = Annotated[Path, typer.Argument(metavar="PLAN", help="What getac lower --plan wrote.")]
Calibration = Annotated[
    Path | None,
    typer.Option(help="Samples, to measure ranges anew: an .npz with one array per input, or a folder."),
]
Ranges = Annotated[
    str, typer.Option(help="How ranges are estimated where there is data: minmax, percentile or mse.")
]


def apply(
    context: typer.Context,
    plan: PlanPath,
    model: ModelPath,
    output: OutputFile,
    calibration: Calibration = None,
    report: LoweringReport = None,
    ranges: Ranges = "minmax",
    target: Target = "portable",
    bench: Bench = True,
    force: Force = False,
    seed: Seed = 0,
) -> None:
    """Carry out a plan on another checkpoint of the same structure: the same units, the same bits."""
    from getac.plans.applying import apply as run

    give_lowered(run, context.params)
