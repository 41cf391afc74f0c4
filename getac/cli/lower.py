"""`getac lower`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from getac.cli.arguments import (
    Bench,
    Calibration,
    Force,
    KeepGlobs,
    LoweringReport,
    ModelPath,
    OutputFile,
    Target,
    number_callback,
)
from getac.cli.console import give_lowered

__all__ = ["lower"]

Sparsity = Annotated[
    str,
    typer.Option(
        help="Share of units to remove, in [0, 1); auto: those that are zero already.",
        callback=number_callback(float, auto="auto"),
    ),
]
Align = Annotated[
    str,
    typer.Option(
        help="Keep channel counts at multiples of this; auto: what the kernels like.",
        callback=number_callback(int, auto="auto"),
    ),
]
Ranges = Annotated[str, typer.Option(help="How activation ranges are estimated: minmax, percentile or mse.")]
WeightBits = Annotated[
    str,
    typer.Option(
        help="Bits of weights, 2 to 8; auto: 8, or 4 if a latency budget asks for it.",
        callback=number_callback(int, auto="auto"),
    ),
]
ActivationBits = Annotated[int, typer.Option(help="Bits of activations, 2 to 8.")]
Block = Annotated[
    str,
    typer.Option(
        help="Inputs of a matrix that share a step where activations stay floats: 16 to 256, or none;"
        " auto: 32 with 4 bits or fewer, else none. For the target portable"
        " they are halved until they divide the inputs.",
        callback=number_callback(int, auto="auto", none=None),
    ),
]
EmbeddingBits = Annotated[
    str,
    typer.Option(
        help="Bits of tables that rows are looked up in, 2 to 8; none: floats.",
        callback=number_callback(int, none=None),
    ),
]
Cost = Annotated[
    Path | None,
    typer.Option(help="What kernels take (tools/measure_kernels.py); default: the table that getac brings."),
]
LatencyBudget = Annotated[
    float | None,
    typer.Option(help="Instead of a sparsity: the part of the original's latency to get to, in (0, 1)."),
]
PlanFile = Annotated[Path | None, typer.Option(help="Write every decision as JSON.")]


def lower(
    context: typer.Context,
    model: ModelPath,
    output: OutputFile,
    sparsity: Sparsity = "auto",
    align: Align = "auto",
    calibration: Calibration = None,
    ranges: Ranges = "minmax",
    weight_bits: WeightBits = "auto",
    activation_bits: ActivationBits = 8,
    block: Block = "auto",
    embedding_bits: EmbeddingBits = "8",
    target: Target = "portable",
    cost: Cost = None,
    latency_budget: LatencyBudget = None,
    report: LoweringReport = None,
    plan: PlanFile = None,
    bench: Bench = True,
    keep: KeepGlobs = None,
    force: Force = False,
) -> None:
    """Prune a model, lower it to integers, verify the result, and write it."""
    from getac.lowering import lower as run

    give_lowered(run, context.params)
