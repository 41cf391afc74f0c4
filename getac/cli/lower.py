"""`getac lower`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from getac.cli.arguments import KeepGlobs, ModelPath, number_or_auto, number_or_none
from getac.cli.console import output_console, progress_of

__all__ = ["lower"]


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
    weight_bits: Annotated[
        str, typer.Option(help="Bits of weights, 2 to 8; auto: 8, or 4 if a latency budget asks for it.")
    ] = "auto",
    activation_bits: Annotated[int, typer.Option(help="Bits of activations, 2 to 8.")] = 8,
    block: Annotated[
        str,
        typer.Option(
            help="Inputs of a matrix that share a step where activations stay floats: 16 to 256, or none;"
            " auto: 32 with 4 bits or fewer, else none. For the target portable"
            " they are halved until they divide the inputs."
        ),
    ] = "auto",
    embedding_bits: Annotated[
        str, typer.Option(help="Bits of tables that rows are looked up in, 2 to 8; none: floats.")
    ] = "8",
    target: Annotated[
        str, typer.Option(help="Who loads the result: portable (opset 21), or ort (onnxruntime alone).")
    ] = "portable",
    cost: Annotated[
        Path | None,
        typer.Option(
            help="What kernels take (tools/measure_kernels.py); default: the table that getac brings."
        ),
    ] = None,
    latency_budget: Annotated[
        float | None,
        typer.Option(help="Instead of a sparsity: the part of the original's latency to get to, in (0, 1)."),
    ] = None,
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
            weight_bits=number_or_auto("--weight-bits", weight_bits, int),
            activation_bits=activation_bits,
            block=None if block == "none" else number_or_auto("--block", block, int),
            embedding_bits=number_or_none("--embedding-bits", embedding_bits, int),
            target=target,
            cost=cost,
            latency_budget=latency_budget,
            bench=bench,
            keep=tuple(keep or ()),
            force=force,
            **callbacks,
        )
    console.print(report_tables(found))
