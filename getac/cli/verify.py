"""`getac verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from getac.cli.arguments import BatchSize, Inputs, JsonFlag, ReportFile, Seed, Sizes, number_or_auto, sizes_of
from getac.cli.console import check_report, give
from getac.errors import VerificationError

if TYPE_CHECKING:
    from getac.verifying.comparison import Comparison

__all__ = ["verify"]


def verify(
    reference: Annotated[Path, typer.Argument(metavar="A", help="The ONNX file that is right.")],
    result: Annotated[Path, typer.Argument(metavar="B", help="The ONNX file that is judged.")],
    data: Inputs = None,
    all_values: Annotated[
        bool, typer.Option("--all-values", help="Compare every value inside that both graphs have by name.")
    ] = False,
    tolerance: Annotated[
        str, typer.Option(help="Bound on max |a - b| / max |a|; auto: by the types, 0.1 if quantized.")
    ] = "auto",
    batch: BatchSize = None,
    size: Sizes = None,
    seed: Seed = 0,
    json: JsonFlag = False,
    report: ReportFile = None,
) -> None:
    """Compare what two models compute, and name the first value that departs."""
    from getac.verifying.comparing import compare
    from getac.verifying.comparison_tables import comparison_tables

    check_report(report, [reference, result, data])
    found = compare(
        reference,
        result,
        data,
        all_values=all_values,
        tolerance=number_or_auto("--tolerance", tolerance, float),
        batch=batch,
        sizes=sizes_of(size),
        seed=seed,
    )
    give(found, comparison_tables, json, report)
    if not found.passed:
        raise departed(found)


def departed(found: Comparison) -> VerificationError:
    return VerificationError(
        f"{found.result} does not compute what {found.reference} computes",
        where=f"the first value that departs: {found.departure}",
        found="; ".join(found.failures),
        hint=None if found.values else "--all-values looks for the place",
    )
